"""Providers that are packages of their own: how they are found, when their library is loaded, and where sessions are made."""

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from helpers.small_models import conv_net, images

import dnnsplit as ds
from dnnsplit.runtime import plugins
from dnnsplit.runtime.providers import CPU, find
from dnnsplit.runtime.sessions import BoundSession, PlainSession, find_provider, session

FOO = "FooExecutionProvider"
CACHED = plugins.plugins, plugins._load
MODULE = f"""
def get_library_path():
    return "/lib/foo.so"
def get_ep_names():
    return [{FOO!r}]
"""


def device(kind, name=FOO, **about):
    return SimpleNamespace(ep_name=name, ep_metadata=about, device=SimpleNamespace(type=SimpleNamespace(name=kind)))


class Runtime:
    """ONNX Runtime's side: what was loaded, the devices that a library finds, what sessions were given, why it fails."""

    def __init__(self, monkeypatch):
        self.loaded, self.finds, self.given, self.fails = [], [device("GPU"), device("NPU")], [], ""
        monkeypatch.setattr(onnxruntime, "register_execution_provider_library", self.load)
        monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [device("CPU", CPU), *(self.finds if self.loaded else [])])
        monkeypatch.setattr(onnxruntime.SessionOptions, "add_provider_for_devices", lambda _, *given: self.given.append(given))
        monkeypatch.setattr(
            onnxruntime.InferenceSession, "get_providers", lambda _: [*(d.ep_name for found, _ in self.given for d in found), CPU]
        )

    def load(self, name, path):
        if self.fails or name in dict(self.loaded):
            raise RuntimeError(self.fails or "EP library is already registered")
        self.loaded.append((name, path))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a package for this test alone."""

    def one(package, module, code):
        for path, text in {
            f"{module}/__init__.py": code,
            f"{package}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
            f"{package}-1.0.dist-info/RECORD": f"{module}/__init__.py,,\n{package}-1.0.dist-info/METADATA,,\n",
        }.items():
            file = tmp_path / "site" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "site")
        forget()

    yield one
    for name in [name for name in sys.modules if name.startswith("onnxruntime_ep_")]:
        del sys.modules[name]
    forget()


def forget():
    for cached in CACHED:
        cached.cache_clear()


@pytest.fixture
def runtime(install, monkeypatch):
    install("onnxruntime-ep-foo", "onnxruntime_ep_foo", MODULE)
    return Runtime(monkeypatch)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return conv_net(tmp_path_factory.mktemp("net") / "net.onnx", size=32)


def test_a_plugin_is_found_by_its_full_name_and_told_among_what_is_installed(runtime):
    assert find_provider(FOO) == find(FOO, [FOO])
    with pytest.raises(ds.OptionError, match=f"no execution provider 'foo'.*installed: .*cpu.*{FOO}"):
        find_provider("foo")
    assert not runtime.loaded  # that was asked, not run


def test_a_known_plugin_is_found_by_its_short_name(install, monkeypatch):
    install("Onnxruntime.EP_webgpu", "onnxruntime_ep_webgpu", MODULE.replace(FOO, "WebGpuExecutionProvider"))
    assert find_provider("webgpu").ort_name == "WebGpuExecutionProvider"


def test_packages_that_bring_no_provider_are_passed_over(runtime, install):
    install("onnxruntime-ep-later", "onnxruntime_ep_later", "")
    install("onnxruntime-epsilon", "onnxruntime_epsilon", "raise RuntimeError")
    modules = {module.__name__ for module in plugins.plugins().values()}
    assert "onnxruntime_ep_foo" in modules
    assert not modules & {"onnxruntime_ep_later", "onnxruntime_epsilon"}


def test_a_plugin_that_tells_one_name_is_found(install):
    install(
        "onnxruntime-ep-foo", "onnxruntime_ep_foo", MODULE.replace("get_ep_names", "get_ep_name").replace(f"[{FOO!r}]", repr(FOO))
    )
    assert FOO in plugins.plugins()


def test_a_broken_plugin_is_told_where_it_may_be_what_is_asked_for_and_disturbs_nobody_else(install):
    install("onnxruntime-ep-foo", "onnxruntime_ep_foo", "raise OSError('libfoo.so.1: cannot open')")
    assert find_provider("cpu").is_cpu
    with pytest.raises(
        ds.OptionError, match=r"'onnxruntime-ep-foo' does not tell .* libfoo.so.1: cannot open; mend or uninstall it"
    ):
        find_provider(FOO)


def test_sessions_of_a_plugin_are_made_on_its_device_and_its_library_is_loaded_once(runtime, path):
    one, other = session(path, provider=FOO), session(path, provider=f"{FOO}:npu")
    assert runtime.loaded == [(FOO, "/lib/foo.so")]
    gpu, npu = runtime.finds
    assert runtime.given == [([gpu], {}), ([npu], {})]
    assert isinstance(one, BoundSession)
    feed = {"x": images(1, 32)}
    np.testing.assert_array_equal(other.run(None, feed)[0], session(path).run(None, feed)[0])


def test_a_session_on_the_cpu_asks_no_plugin(runtime, path, monkeypatch):
    monkeypatch.setattr(plugins, "plugins", lambda: pytest.fail("a plugin was looked for"))
    session(path, provider="cpu")
    assert (runtime.loaded, runtime.given) == ([], [])


@pytest.mark.parametrize(
    ("text", "device_at", "options"),
    [
        ("openvino", 1, {"load_config": '{"CPU": {"INFERENCE_NUM_THREADS": "1"}}'}),  # its CPU, though others come first
        ("openvino:GPU.1", 2, {"load_config": '{"CPU": {"INFERENCE_NUM_THREADS": "1"}}'}),
        ("openvino:0", 0, {"load_config": '{"CPU": {"INFERENCE_NUM_THREADS": "1"}}'}),
    ],
)
def test_openvino_as_a_plugin_has_the_devices_and_threads_that_it_has_inside_onnx_runtime(
    install, path, monkeypatch, text, device_at, options
):
    name = "OpenVINOExecutionProvider"
    monkeypatch.setattr("dnnsplit.runtime.sessions.BUILT_IN", (CPU,))
    monkeypatch.setattr(plugins, "BUILT_IN", (CPU,))
    install("onnxruntime-ep-openvino", "onnxruntime_ep_openvino", MODULE.replace(FOO, name))
    runtime = Runtime(monkeypatch)
    runtime.finds = [
        device("GPU", name, ov_device="GPU.0"), device("CPU", name, ov_device="CPU"), device("GPU", name, ov_device="GPU.1"),
    ]  # fmt: skip
    session(path, provider=text)
    assert runtime.given == [([runtime.finds[device_at]], options)]


def test_a_provider_that_is_built_in_stays_so_beside_its_plugin():
    assert not plugins.is_plugin(CPU)
    assert plugins.is_plugin(FOO)


def test_a_library_that_others_have_loaded_is_asked_by_its_device(runtime, path, monkeypatch):
    # ONNX Runtime lists its name then as if it were built in, and takes the CPU where it is asked for by that
    monkeypatch.setattr(plugins, "BUILT_IN", (FOO, CPU))
    runtime.finds, runtime.loaded = [device("GPU", library_path="/lib/foo.so")], [("theirs", "/lib/foo.so")]
    monkeypatch.setattr(plugins, "plugins", dict)
    session(path, provider=find(FOO, [FOO]))
    assert runtime.given == [(runtime.finds, {})]


def test_a_plugin_without_a_device_is_refused(runtime, path):
    runtime.finds = []
    for _ in range(2):  # the second time, its library is loaded already
        with pytest.raises(ds.OptionError, match=f"'{FOO}' is installed but finds no device on this machine"):
            session(path, provider=FOO)


def test_a_device_that_is_not_there_is_refused_with_those_that_are(runtime, path):
    for text in ("TPU", "2"):
        with pytest.raises(
            ds.OptionError, match=f"no device '{text}' on this machine; it has {FOO}:GPU, {FOO}:NPU, {FOO}:0, {FOO}:1"
        ):
            session(path, provider=f"{FOO}:{text}")


def test_a_library_that_does_not_load_is_told_with_onnx_runtimes_reason(runtime, path):
    runtime.fails = 'ORT runtime version "1.24.1" is below the minimum required version "1.24.4".\nmore'
    for _ in range(2):
        with pytest.raises(
            ds.OptionError, match=f"library of .* '{FOO}' cannot be loaded .*below the minimum .*1.24.4..; install"
        ):
            session(path, provider=FOO)


def test_a_model_that_a_plugin_does_not_take_is_told_apart_from_one_that_nothing_takes(runtime, path, monkeypatch):
    with pytest.raises(ds.ModelError, match=f"cannot load the model on '{FOO}': "):
        session(b"nonsense", provider=FOO)
    real = PlainSession

    def refuses(content, options, providers=None, **others):
        if providers is None:
            raise RuntimeError("/onnxruntime_src/core/foo.cc:7 void foo::Start(const Options&, int) Please install libfoo.")
        return real(content, options, providers=providers, **others)

    monkeypatch.setattr("dnnsplit.runtime.sessions.PlainSession", refuses)
    with pytest.raises(ds.OptionError, match=f"'{FOO}' is installed but .*which the CPU takes: Please install libfoo; use 'cpu'"):
        session(path, provider=FOO)
