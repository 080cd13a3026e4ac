"""What running costs: seconds per layer, server and precision, forms of tensors on the wire, overhead of cuts, power.

In: a graph, a network, a calibration. Out: `LayerTimes`, `WireForms`, `Overhead`, `Power`.
May import the ground, network, runtime, codecs, graph and quantize.
"""
