"""ONNX Runtime, the one way: sessions, execution providers, and what a provider leaves to the CPU.

In: a model, the short name of a provider. Out: sessions that are made alike everywhere.
May import the ground; it is the only room that starts sessions of onnxruntime.
"""
