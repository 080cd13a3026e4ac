"""Bounds that need no solver: prices of limits, branch and bound over the q bits, the slowest stage of a pipeline.

In: the arrays of a problem, an objective, limits. Out: bounds, and plans that reach them.
May import what solving may.
"""
