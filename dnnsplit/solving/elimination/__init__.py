"""Exact placement by min-sum variable elimination, for all quantization schemes at once.

In: the arrays of a problem. Out: the optimum of every scheme.
May import what solving may.
"""
