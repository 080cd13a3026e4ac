"""Where the shipped model comes from: drawn scenes of protective equipment, its training, and its scores.

In: a seed. Out: images, boxes, a trained detector as ONNX.
May import the ground, noise, and what exports YOLO11.
"""
