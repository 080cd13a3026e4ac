"""The mixed-integer programmes, the slides' and a tight one, and the solvers that PuLP knows.

In: the arrays of a problem, an objective, limits. Out: a solution with its bound.
May import what solving may; PuLP is imported here alone.
"""
