"""What ``dnnsplit --version`` prints; ONNX Runtime is not loaded for it."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata
from typing import Any

from dnnsplit import __version__


def version() -> str:
    """Return one line: the versions of dnnsplit, of Python and of the package that brings ONNX Runtime.

    Examples
    --------
    >>> version().split(",")[0] == f"dnnsplit {__version__}"
    True
    """
    # onnxruntime, onnxruntime-gpu, ...: the one whose files are there; plugins have similar names
    named = (one for one in metadata.distributions() if one.name.startswith("onnxruntime"))
    runtimes = [f"{one.name} {one.version}" for one in named if "onnxruntime/__init__.py" in map(str, one.files or ())]
    return ", ".join([f"dnnsplit {__version__}", f"Python {platform.python_version()}", *(runtimes or ["no ONNX Runtime"])])


class Version(argparse.Action):
    """Prints the line and ends; it is made when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print it."""
        print(version())
        parser.exit()
