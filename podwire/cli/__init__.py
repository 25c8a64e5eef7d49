"""The command line: arguments in, calls to the rooms below, tables out."""
