"""dnnsplit decides which layers of a neural network run where, and which in int8.

ONNX file -> graph -> profile -> noise -> costs -> solve -> plan -> cut -> deploy -> figures

Names are loaded when they are first used, so that importing the package does nothing; ``__init__.pyi`` lists them. That list is
read as late, too: a command hears signals before it.
"""

__version__ = "0.1.0"


def _attach() -> dict[str, object]:
    import lazy_loader

    attach, _, names = lazy_loader.attach_stub(__name__, __file__)
    attached = {"__getattr__": attach, "__all__": names}
    globals().update(attached)
    return attached


def __getattr__(name: str) -> object:
    attached = _attach()
    return attached[name] if name in attached else attached["__getattr__"](name)


def __dir__() -> list[str]:
    """Return what is to be completed: the public names, and none of the rooms that importing one binds here."""
    return sorted({*_attach()["__all__"], *(name for name in globals() if name.startswith("__"))})
