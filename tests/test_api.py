"""The public names, and the rules of who may import whom."""

import ast
import os
import platform
import re
import subprocess
import sys

import onnxruntime
import pytest
from helpers.paths import ROOT
from IPython.core.completer import IPCompleter, provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

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


LISTED = {
    "ds": {*ds.__all__, "__version__"},
    "ds.plots": {*ds.plots.__all__},
    "ds.examples": {*ds.examples.__all__},
    "ds.scenes": {*ds.scenes.__all__},
}


@pytest.mark.parametrize("jedi", [False, True])
@pytest.mark.parametrize("place", LISTED)
def test_a_tab_lists_the_public_names_alone(place, jedi):
    __import__("dnnsplit.cli.running")  # the rooms are attributes of the package now
    assert {"cli", "ground"} <= set(vars(ds))
    completer = IPCompleter(InteractiveShell(user_ns={"ds": ds}), namespace={"ds": ds}, use_jedi=jedi)
    with provisionalcompleter():
        found = {one.text.lstrip(".") for one in completer.completions(f"{place}.", len(place) + 1)}
    assert found == {name for name in LISTED[place] if not name.startswith("_")}
    assert {name for name in dir(eval(place)) if name in LISTED[place] or not name.startswith("__")} == LISTED[place]


def test_the_stub_is_what_is_listed():
    tree = ast.parse((ROOT / "dnnsplit" / "__init__.pyi").read_text(encoding="utf-8"))
    names = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(ds.__all__) == names


def test_the_version_is_told_and_cited():
    assert f"\nversion: {ds.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    code = """
import sys
from dnnsplit.cli.main import main
try:
    main(["--version"])
except SystemExit as end:
    sys.exit(end.code or "onnxruntime" in sys.modules)
sys.exit("it went on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = rf"dnnsplit {ds.__version__}, Python {platform.python_version()}, onnxruntime[\w-]* {onnxruntime.__version__}\n"
    assert re.fullmatch(told, done.stdout)


def test_a_folder_that_has_its_name_does_not_hide_the_package(tmp_path):
    # as a clone that is called dnnsplit does in the folder it lies in: without an __init__.py it gives way to the package
    (tmp_path / "dnnsplit").symlink_to(ROOT)
    code = "import dnnsplit as ds; print(ds.split.__module__, ds.__file__)"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))}
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    assert out.stdout == f"dnnsplit.solving.split {ROOT / 'dnnsplit' / '__init__.py'}\n"
    command = [sys.executable, "-m", "dnnsplit", "--version"]
    out = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, check=True)
    assert out.stdout.startswith(b"dnnsplit ")


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
