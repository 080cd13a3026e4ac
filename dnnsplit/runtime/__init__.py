"""ONNX Runtime, the one way: sessions, execution providers (built in or plugins), and how a run is timed and watched.

In: a model, the short name of a provider. Out: sessions that are made alike everywhere, seconds of their runs and kernels.
May import the ground; sessions are made here alone.
"""
