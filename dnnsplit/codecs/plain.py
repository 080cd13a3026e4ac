"""The forms of tensors that nothing has to be done for: as they are made."""

PLAIN = "float32"  # a tensor as a float32 layer makes it, or as the model takes it
INT8 = "int8"  # as an int8 layer makes it
