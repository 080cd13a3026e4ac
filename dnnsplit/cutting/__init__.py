"""From a plan to files: ONNX parts, how they are wired, checked against the whole model; several plans in one folder.

In: a model and plans. Out: a `Bundle`, a `PlanSet`, a Triton repository.
May import every room before it, up to solving.
"""
