"""The public names, and the rules of who may import whom."""

import ast
import doctest
import importlib
import subprocess
import sys

import pytest
from helpers.paths import ROOT

import dnnsplit as ds

# what only some modules may import: the rule that keeps a change of library in one place
ONLY = {
    "onnx": {"graph", "quantize", "profiling.executed", "examples.yolo11"},
    "onnxruntime": {"runtime", "graph.optimizing", "quantize.calibration", "quantize.rewrite", "noise.prefix_tree"},
    "pulp": {"solving.milp.cbc", "solving.milp.solvers"},
    "scipy": {"noise.confidence", "solving.bounds.multipliers", "profiling.overhead"},
    "papermill": {"sweep.process"},
    "distributed": {"sweep.dask"},
    "nbconvert": {"sweep.report"},
    "ipywidgets": {"plots.sliders"},
    "matplotlib": {"plots"},
    "sklearn": {"noise"},
    "zeus": {"profiling.power"},
    "yaml": {"network.yaml", "ground.yaml_file"},
    "torch": {"examples.yolo11"},
    "ultralytics": {"examples.yolo11"},
    "grpc": {"deployment", "agents.wire"},
    "cryptography": {"agents.keys"},
    "tritonclient": {"deployment"},
}  # fmt: skip
MODULES = {
    ".".join(path.relative_to(ROOT / "dnnsplit").with_suffix("").parts): path
    for path in sorted((ROOT / "dnnsplit").rglob("*.py"))
}


def imported(path):
    """Top-level imports of a module, those inside functions among them; not those for type checkers alone."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_every_public_name_is_there_and_documented():
    for name in ds.__all__:
        assert getattr(ds, name).__doc__, name
    assert set(ds.__all__) <= set(dir(ds))
    with pytest.raises(AttributeError, match="No dnnsplit attribute splt"):
        _ = ds.splt


def test_the_contract_of_names():
    contract = """load Layer Tensor LayerGraph Network Server Link profile LayerTimes measure_noise NoiseSamples fit_noise
        NoiseModel split pareto evaluate cut testbed DnnSplitError ModelError NetworkError ProfileError NoiseError InfeasibleError
        DeployError"""
    assert set(contract.split()) <= set(ds.__all__)
    for name in ("ModelError", "NetworkError", "ProfileError", "NoiseError", "InfeasibleError", "DeployError"):
        assert issubclass(getattr(ds, name), ds.DnnSplitError)


def test_no_room_can_take_the_place_of_a_public_function():
    # importing dnnsplit.x binds the room as ds.x, whatever ds.x was meant to be
    rooms = {name.split(".")[0] for name in MODULES}
    assert set(ds.__all__) & rooms == {"examples", "plots"}


def test_importing_the_package_does_nothing():
    code = "import sys; old = set(sys.modules); import dnnsplit; print(sorted({m.split('.')[0] for m in set(sys.modules) - old}))"
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "onnx", "onnxruntime", "pandas", "pulp", "matplotlib"} & set(ast.literal_eval(out))


@pytest.mark.parametrize("library", ONLY)
def test_a_library_stays_where_it_belongs(library):
    users = {name for name, path in MODULES.items() if any(m and m.split(".")[0] == library for m in imported(path))}
    allowed = ONLY[library]
    assert {user for user in users if not any(user == place or user.startswith(f"{place}.") for place in allowed)} == set()


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_small_and_say_what_they_are(name):
    text = MODULES[name].read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    told = [node.body[0] for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node) is not None]
    assert len(text.splitlines()) - sum(one.end_lineno - one.lineno + 1 for one in told) <= 300  # beside docstrings


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if ">>> " in path.read_text(encoding="utf-8")])
def test_the_examples_in_docstrings_are_true(name):
    found = doctest.testmod(importlib.import_module(f"dnnsplit.{name}".removesuffix(".__init__")), extraglobs={"ds": ds})
    assert found.attempted > 0
    assert found.failed == 0
