"""Run a telling part of the tests with the lowest versions that pyproject.toml allows: ``python .ci/lowest.py``.

They are installed into an environment in a temporary folder, with this Python; what pyproject.toml does not name keeps to
constraints.txt. Arguments are handed to pytest, in the place of the tests below.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# From a file to an answer, and what meets each library: ONNX Runtime, PuLP and HiGHS, SciPy, scikit-learn, pandas, msgspec,
# zstandard, Pillow, gRPC, Triton's stubs, cryptography, Jupyter and papermill, ipywidgets, Matplotlib.
TESTS = [
    "tests/graph/test_feeds.py", "tests/graph/test_layers.py", "tests/graph/test_shared_weights.py",
    "tests/solving/bounds/test_multipliers.py", "tests/noise/test_models.py", "tests/ground/test_forms.py",
    "tests/codecs/test_forms.py", "tests/cutting/test_bundle.py", "tests/deployment/test_any_model.py",
    "tests/agents/test_keys.py", "tests/plots/test_sliders.py", "tests/plots/test_forms.py",
    "tests/notebooks/test_notebooks.py::test_quickstart_answers_from_the_shipped_data",
]  # fmt: skip
WITH = ["pytest", "pytest-xdist", "hypothesis", "nbstripout"]


def lowest() -> dict[str, str]:
    """Return the lowest version of each package that dnnsplit requires, as the installed dnnsplit tells."""
    required = [Requirement(line) for line in metadata.requires("dnnsplit") or ()]
    return {
        canonicalize_name(one.name): bound.version
        for one in required
        if not one.marker  # extras have one
        for bound in one.specifier
        if bound.operator == ">="
    }


def main(*arguments: str) -> int:
    """Install and test; return pytest's exit status."""
    versions = lowest()
    others = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if canonicalize_name(line.split("==")[0]) not in versions
    ]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with tempfile.TemporaryDirectory() as folder:
        python, pins = Path(folder) / "env" / "bin" / "python", Path(folder) / "lowest.txt"
        pins.write_text("\n".join([*(f"{name}=={version}" for name, version in versions.items()), *others]), encoding="utf-8")
        venv.create(python.parents[1], with_pip=True)
        options = ["-q", "--disable-pip-version-check", "--no-compile", "-c", str(pins), "-e", str(ROOT)]
        subprocess.run([python, "-m", "pip", "install", *options, *WITH], check=True, env=variables)
        print(
            f"Python {sys.version.split()[0]}:", ", ".join(f"{name} {version}" for name, version in versions.items()), flush=True
        )
        tests = arguments or ("-q", "-n", "2", "--dist", "loadfile", *TESTS)
        return subprocess.run([python, "-m", "pytest", *tests], cwd=ROOT, env=variables).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
