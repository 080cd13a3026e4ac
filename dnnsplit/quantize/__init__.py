"""What int8 means: one setting, the ranges of tensors, and the one rewriting that makes a layer int8.

In: a graph and images. Out: a `Calibration`, and models of some layers with some of them in int8.
May import the ground, runtime and graph.
"""
