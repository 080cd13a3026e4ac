"""The logical graph: an ONNX file, read and put in order, and its layers as ONNX Runtime fuses them.

In: an ONNX file, or layers and tensors by hand. Out: a `LayerGraph`, and the indexed model behind it.
May import the ground and runtime.
"""
