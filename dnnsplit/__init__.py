"""dnnsplit decides which layers of a neural network run where, and which in int8.

ONNX file -> graph -> profile -> noise -> costs -> solve -> plan -> cut -> deploy -> figures

Names are loaded when they are first used, so that importing the package does nothing; ``__init__.pyi`` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
