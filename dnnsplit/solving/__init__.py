"""The best placement and quantization: costs, the question, elimination, bounds, mixed-integer programmes, plans, fronts.

In: graph, network, times, noise, limits. Out: a `Plan`, a `Front`.
May import every room before it: ground, network, graph, quantize, profiling, noise.
"""
