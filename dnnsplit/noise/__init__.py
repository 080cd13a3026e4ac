"""What int8 does to the outputs: measured by a meter, kept as samples, predicted by models with bounds.

In: a graph and images, or a table of samples. Out: `NoiseSamples`, `NoiseModel`, verified schemes.
May import the ground, runtime, graph and quantize.
"""
