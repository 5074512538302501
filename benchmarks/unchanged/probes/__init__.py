"""What is asked of a checkout, run by its own interpreter inside it.

Each module has functions that return facts: texts or numbers by name, the same for two checkouts
that do the same. They run against any commit, this package absent from it, so they import each
other relatively and ask for a thing that moved by all its addresses.
"""
