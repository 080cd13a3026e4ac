"""What int8, and forms on the wire that lose something, do to the outputs: measured, kept as samples, predicted with bounds.

In: a graph and images, or a table of samples. Out: `NoiseSamples`, `NoiseModel`, verified schemes.
May import the ground, codecs, runtime, graph and quantize.
"""
