"""The lab: nodes as namespaces on one machine, brought up, looked into and taken down without a trace."""
