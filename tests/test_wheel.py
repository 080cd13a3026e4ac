"""The wheel where nothing else is: in an empty environment and an empty folder. Slow, and with --wheel alone: it installs."""

import os
import re
import runpy
import shutil
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from contextlib import ExitStack
from types import ModuleType

import numpy as np
import pytest
from helpers.bundle_models import lookup
from helpers.paths import ROOT
from helpers.processes import started, wait_until
from helpers.standalone import free_ports

import dnnsplit as ds
from dnnsplit.deployment.client import Client

CONSTRAINTS = ROOT / "constraints.txt"
SERVE = ROOT / "requirements-serve.txt"


@pytest.fixture
def required(monkeypatch):
    """A function that tells what the package requires where some packages are."""
    interface = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object  # hatchling is where packages are built alone
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))["OnnxRuntime"]()
    hook.config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]["custom"]

    def where(folder):
        monkeypatch.setattr(site, "getsitepackages", lambda: [str(folder)])
        project = {}
        hook.update(project)
        return project["dependencies"]

    return where


def test_a_host_that_serves_needs_a_part_of_what_the_package_needs(required, tmp_path):
    lines = [line for line in SERVE.read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert set(lines) < set(required(tmp_path))


def test_the_onnx_runtime_that_is_there_is_required_else_the_plain_one(required, tmp_path):
    def runtimes():
        return [line for line in required(tmp_path) if line.startswith("onnxruntime")]

    assert runtimes() == ["onnxruntime>=1.27,<2"]
    installed(tmp_path, "onnxruntime-ep-openvino", "onnxruntime_ep_openvino/__init__.py")  # a plugin brings no ONNX Runtime
    assert runtimes() == ["onnxruntime>=1.27,<2"]
    installed(tmp_path, "onnxruntime-openvino", "onnxruntime/__init__.py")
    assert runtimes() == ["onnxruntime-openvino>=1.23.2,<2"]


def installed(folder, name, file):
    """As pip leaves it."""
    about = folder / f"{name.replace('-', '_')}-1.24.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.24.1\n")
    (about / "RECORD").write_text(f"{file},,\n")


@pytest.fixture(scope="module")
def wheel(request, tmp_path_factory):
    if not request.config.getoption("--wheel"):
        pytest.skip("needs --wheel")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "-q", "-o", folder, ROOT], check=True)  # the wheel is built from the sdist
    (path,) = folder.glob("*.whl")
    return path


class Environment:
    """An empty environment, an empty folder, and nothing of ours in sight."""

    def __init__(self, folder, *installs):
        self.bin, self.place = folder / "env" / "bin", folder / "place"
        self.variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        venv.create(folder / "env", with_pip=True)
        self.place.mkdir()
        for install in installs:
            self.run("pip", "install", "-q", "--disable-pip-version-check", *install)

    def run(self, program, *arguments, check=True):
        command = [self.bin / program, *arguments]
        done = subprocess.run(command, cwd=self.place, env=self.variables, capture_output=True, text=True, timeout=600)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout if check else done.stderr

    def started(self, program, *arguments):
        return started(self.bin / program, *arguments, cwd=self.place, env=self.variables, stdout=subprocess.PIPE)


def test_everything_of_the_package_is_in_it(wheel):
    files = {str(p.relative_to(ROOT)) for p in (ROOT / "dnnsplit").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert {"dnnsplit/__init__.pyi", "dnnsplit/py.typed"} < files  # and style sheets
    with zipfile.ZipFile(wheel) as file:
        assert files <= set(file.namelist())


def test_a_host_that_serves_needs_little(wheel, tmp_path):
    slim = Environment(tmp_path, ["--no-deps", wheel], ["-r", SERVE, "-c", CONSTRAINTS])
    slim.run("python", "-W", "error", "-c", "import dnnsplit")
    assert "serve" in slim.run("dnnsplit", "--help")
    (tmp_path / "bundle").mkdir()
    bundle = lookup(tmp_path / "bundle")
    ports = dict(zip(bundle.stages, free_ports(len(bundle.stages)), strict=True))
    hosts = [f"--at={name}=127.0.0.1:{port}" for name, port in ports.items()]
    with ExitStack() as stack:
        for name, port in ports.items():
            stage = stack.enter_context(slim.started("dnnsplit", "serve", bundle.folder, "--server", name, *hosts))
            assert stage.stdout.readline() == f"127.0.0.1:{port}\n"
        client = stack.enter_context(Client(f"127.0.0.1:{ports['device']}", "lookup", 10.0))
        wait_until(lambda: answer(client) == 30.0)
        shutil.copy(ROOT / "data" / "networks" / "device-edge.yaml", slim.place / "net.yaml")
        written = ["--network", "net.yaml", "--link", "device", "edge"]
        assert "bandwidth" in slim.run("dnnsplit", "probe", f"127.0.0.1:{ports['edge']}", *written)
    missing = slim.run("dnnsplit", "pareto", "model.onnx", "net.yaml", "times.csv", check=False)
    assert re.fullmatch(r"dnnsplit: No module named '\w+'; requirements-serve.txt is for .*\n", missing)


def answer(client):
    try:
        return float(client.infer({"index": np.array([3])})["value"][0])
    except ds.DeployError:  # not ready yet
        return None


def test_the_shipped_example_and_the_quickstart_need_no_repository(wheel, tmp_path):
    full = Environment(tmp_path, [wheel, "-c", CONSTRAINTS])
    code = "import dnnsplit as ds; print(ds.examples.data_folder(), *ds.examples.yolo11n())"
    assert full.run("python", "-W", "error", "-c", code).startswith(str(tmp_path))
    shutil.copy(ROOT / "notebooks" / "00-quickstart.ipynb", full.place)
    full.run("dnnsplit", "run", "00-quickstart.ipynb", "-o", "out")
    assert sorted(path.name for path in full.place.iterdir()) == ["00-quickstart.ipynb", "out"]
