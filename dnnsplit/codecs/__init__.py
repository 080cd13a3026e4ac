"""How tensors are written for the wire: as they are, in fewer bits, compressed, or as images.

In: arrays. Out: bytes, and arrays again.
May import the ground.
"""
