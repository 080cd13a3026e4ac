"""Fixtures and helpers shared by the tests."""

from pathlib import Path

import matplotlib as mpl
import pytest
from helpers.bundle_models import lookup, mlp
from helpers.paths import ROOT
from helpers.processes import none_left
from helpers.standalone import deployment

import dnnsplit as ds

mpl.use("Agg")


def pytest_addoption(parser):
    parser.addoption("--instance", type=Path, help="folder of a real instance: layers, tensors, times, noise (csv), network.yaml")
    parser.addoption("--agreement", type=int, help="how many random questions all methods are asked (default 200)")
    parser.addoption("--wheel", action="store_true", help="build the wheel, and install it where nothing else is (minutes)")


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left():
    """What the tests of a module start has ended after them."""
    with none_left():
        yield


@pytest.fixture
def instance(request):
    folder = request.config.getoption("--instance")
    if folder is None:
        pytest.skip("needs --instance FOLDER")
    return folder


@pytest.fixture(scope="session")
def shipped_path():
    return ROOT / "data" / "models" / "yolo11n-ppe-320.onnx"


@pytest.fixture(scope="session")
def shipped(shipped_path):
    return ds.load(shipped_path)


@pytest.fixture(scope="module")
def mlp_bundle(tmp_path_factory):
    return mlp(tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="module")
def lookup_bundle(tmp_path_factory):
    return lookup(tmp_path_factory.mktemp("lookup"))


@pytest.fixture(scope="module")
def running(mlp_bundle, tmp_path_factory):
    """Three stages on fixed ports, which the tests of a module leave alive."""
    with deployment(mlp_bundle, tmp_path_factory.mktemp("stages")) as one:
        yield one.start()
