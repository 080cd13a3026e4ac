"""dnnsplit decides which layers of a neural network run where, and which in int8.

ONNX file -> graph -> profile -> noise -> costs -> solve -> plan -> cut -> deploy -> figures
"""
