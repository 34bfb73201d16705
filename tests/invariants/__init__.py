"""A corpus of programs, killed at every boundary, and held to what an undisturbed run did.

``programs`` says what is run, ``scenarios`` how it is disturbed, ``lane`` runs one case in real processes, ``judge``
compares, ``controls`` breaks the product on purpose. ``python -m tests.invariants`` is the whole grid.
"""
