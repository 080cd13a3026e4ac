"""Which ONNX Runtime this package requires: the one that is where it is installed, else ``onnxruntime``.

Packages of ONNX Runtime (onnxruntime, -gpu, -openvino, ...) overwrite each other's files, and a requirement cannot say "any of
them". So pip is told the one that is there. ``python -m build`` and uv build in an environment of their own: onnxruntime.
"""

from __future__ import annotations

import site
import sys
from importlib import metadata
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# onnxruntime 1.25 and 1.26 miss SymPy for their quantization; before, numbers divided by 0 end the process.
# onnxruntime-openvino ends at 1.24.1. 1.22 knows neither plugins in Python nor the optimizer that is disabled.
DEFAULT, NEWER, OLDER = "onnxruntime", ">=1.27,<2", {"onnxruntime-openvino": ">=1.23.2,<2"}


class OnnxRuntime(MetadataHookInterface):
    """Adds ONNX Runtime to the dependencies in pyproject.toml."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Complete the table of the project."""
        runtimes = [name + OLDER.get(name, NEWER) for name in present() or [DEFAULT]]
        metadata["dependencies"] = [*self.config["dependencies"], *runtimes]


def present() -> list[str]:
    """Return the packages of ONNX Runtime in the environment whose Python builds this; pip hides them from the path alone."""
    user = [site.getusersitepackages()] if sys.prefix == sys.base_prefix else []
    found = metadata.distributions(path=[*site.getsitepackages(), *user])
    return sorted({p.metadata["Name"] for p in found if any(str(file) == "onnxruntime/__init__.py" for file in p.files or ())})
