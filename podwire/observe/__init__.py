"""What there is, as rows: addresses, blocks, nodes and their faults, and the mending of what a check found.

Pages calculate rows from objects and print nothing; `cluster` reads the objects, `mend` writes. The command line shows
them.
"""
