"""Address blocks: which address goes to whom.

`blocks` is pure (assign, release, claim as values); `claims` carries it through the API by compare-and-swap and
receives its client as an argument.
"""
