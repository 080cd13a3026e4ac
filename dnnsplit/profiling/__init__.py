"""What running costs: seconds per layer, server and precision, overhead of cuts, power.

In: a graph, a network, a calibration. Out: `LayerTimes`, `Overhead`, `Power`.
May import the ground, network, runtime, graph and quantize.
"""
