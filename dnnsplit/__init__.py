"""dnnsplit decides which layers of a neural network run where, and which in int8.

ONNX file -> graph -> profile -> noise -> costs -> solve -> plan -> cut -> deploy -> figures

Names are loaded when they are first used, so that importing the package does nothing; ``__init__.pyi`` lists them. That list is
read as late, too: a command hears signals before it.
"""


def _attach() -> dict[str, object]:
    import lazy_loader

    names = ("__getattr__", "__dir__", "__all__")
    attached = dict(zip(names, lazy_loader.attach_stub(__name__, __file__), strict=True))
    globals().update(attached)
    return attached


def __getattr__(name: str) -> object:
    attached = _attach()
    return attached[name] if name in attached else attached["__getattr__"](name)


def __dir__() -> list[str]:
    return _attach()["__dir__"]()
