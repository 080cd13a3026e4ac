"""Execution providers: their names, sessions that bind their tensors, blocks they have in common, and their profiles."""

import json
import threading
import time

import networkx as nx
import numpy as np
import onnxruntime
import pytest
from helpers.architectures import ALL
from helpers.bundle_models import detector, detector_feed, detector_numpy
from helpers.small_models import conv_net, images
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.deployment.serving import serve
from dnnsplit.deployment.stage.sessions import load as load_part
from dnnsplit.graph.blocks import find_blocks, load
from dnnsplit.graph.partitions import finest_common
from dnnsplit.graph.reading import read_model
from dnnsplit.profiling.elsewhere import profile_here
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.runtime import providers, sessions
from dnnsplit.runtime.providers import CPU, Provider, find
from dnnsplit.runtime.sessions import BoundSession, session
from dnnsplit.runtime.timing import left_to_cpu

BOUND = Provider("bound", CPU, compiles=False, own_memory=True)  # the CPU as if its memory were elsewhere
COMPILED = Provider("compiled", CPU, compiles=True, own_memory=True)  # and as if it showed no kernels
OTHERS = [p for p in providers.KNOWN if not p.is_cpu]
AZURE = "AzureExecutionProvider"  # in most builds of ONNX Runtime; it takes no node of these models
GPU = ["CUDAExecutionProvider", "TensorrtExecutionProvider", CPU]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """A server rests between requests; nothing here is about how long that makes it."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx", size=32))


def needs(provider, folder):
    """Skip where a provider is not installed, or the machine lacks what it runs on; both are told in our words."""
    try:
        session(conv_net(folder / "probe.onnx", size=32), provider=provider.name)
    except ds.OptionError as error:
        pytest.skip(str(error))


# ---------------------------------------------------------------- names


def test_a_provider_is_found_by_its_short_and_its_full_name():
    assert find("cpu", [CPU]).is_cpu
    assert find(CPU, [CPU]) == find("CPU", [CPU]) == find("cpu", [CPU])
    assert find("cuda:1", GPU).request(1, GPU) == [("CUDAExecutionProvider", {"device_id": "1"}), (CPU, {})]
    assert find("tensorrt", GPU).request(1, GPU) == [
        ("TensorrtExecutionProvider", {}), ("CUDAExecutionProvider", {}), (CPU, {}),
    ]  # fmt: skip
    assert find("cpu", GPU).request(1, GPU) == [(CPU, {})]
    options = {"device_type": "GPU", "num_of_threads": "2"}
    vino = ["OpenVINOExecutionProvider", CPU]
    assert find("openvino:GPU", vino).request(2, vino) == [("OpenVINOExecutionProvider", options), (CPU, {})]


def test_only_what_computes_in_the_calling_thread_is_timed_by_its_cpu_time():
    assert find("cpu", [CPU]).clock is time.thread_time
    vino = ["OpenVINOExecutionProvider", CPU]
    assert find("openvino", vino).clock is time.thread_time
    assert find("openvino:GPU", vino).clock is find("cuda", GPU).clock is time.perf_counter


def test_an_installed_provider_that_is_unknown_here_is_taken_by_its_full_name():
    other = find("FooExecutionProvider", ["FooExecutionProvider", CPU])
    assert (other.compiles, other.own_memory) == (True, True)
    assert other.request(1, []) == [("FooExecutionProvider", {}), (CPU, {})]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cuda", "'cuda' is not installed here; installed: cpu; .* pip install onnxruntime-gpu"),
        (
            "OpenVINOExecutionProvider",
            "'openvino' is not installed .* pip install onnxruntime-openvino, or beside .*: pip install onnxruntime-ep-openvino",
        ),
        ("webgpu", "'webgpu' is not installed here; installed: cpu; beside the .* here: pip install onnxruntime-ep-webgpu"),
        ("opnvino", "there is no execution provider 'opnvino' .did you mean 'openvino'"),
        ("cpu:1", "the CPU has no devices"),
    ],
)
def test_a_provider_that_is_not_there_is_refused_by_name(name, text):
    with pytest.raises(ds.OptionError, match=text):
        find(name, [CPU])


# ---------------------------------------------------------------- sessions


def test_the_cpu_has_plain_sessions(net):
    assert isinstance(session(net.model_path), onnxruntime.InferenceSession)
    assert isinstance(session(net.model_path, provider=CPU), onnxruntime.InferenceSession)


def test_a_run_that_fails_is_told_by_an_error_of_ours(net):
    with pytest.raises(ds.ModelError, match=r"a run of the model fails: .*invalid dimensions for input: x"):
        session(net.model_path).run(None, {"x": images(1, 16)})


def test_a_bound_session_computes_what_a_plain_one_does(net):
    feed = {"x": images(1, 32)}
    plain, bound = session(net.model_path), session(net.model_path, provider=BOUND)
    assert isinstance(bound, BoundSession)
    names = [o.name for o in plain.get_outputs()]
    for asked in (None, names, names[::-1], names[:1]):
        for a, b in zip(bound.run(asked, feed), plain.run(asked, feed), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_array_equal(a, b)


def test_runs_of_a_bound_session_do_not_share_their_outputs(net):
    bound, found = session(net.model_path, provider=BOUND), {}
    pictures = images(4, 32)
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: bound.run(None, {"x": pictures[i : i + 1]})})) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        for a, b in zip(found[i], session(net.model_path).run(None, {"x": pictures[i : i + 1]}), strict=True):
            np.testing.assert_array_equal(a, b)


def test_inputs_that_are_not_contiguous_are_bound(net):
    turned = np.asfortranarray(images(1, 32))
    expected = session(net.model_path).run(None, {"x": images(1, 32)})
    np.testing.assert_array_equal(session(net.model_path, provider=BOUND).run(None, {"x": turned})[0], expected[0])


def test_a_provider_that_does_not_start_is_refused(net, monkeypatch):
    # ONNX Runtime drops a provider that cannot start, and goes on with the CPU
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: [CPU])
    monkeypatch.setattr(Provider, "request", lambda self, threads, installed: [(CPU, {})])
    monkeypatch.setattr(sessions, "is_plugin", lambda name: False)
    with pytest.raises(ds.OptionError, match="'cuda' is installed but cannot start on this machine"):
        session(net.model_path, provider=providers.KNOWN[1])


def test_a_model_that_cannot_be_loaded_says_so():
    with pytest.raises(ds.ModelError, match="cannot load the model: "):
        session(b"nonsense")
    with pytest.raises(ds.ModelError, match="cannot load the model: "):
        session(b"nonsense", provider=BOUND)


# ---------------------------------------------------------------- blocks


@st.composite
def partitioned(draw):
    """A random acyclic graph with two partitions of its nodes, each without a cycle, as providers have them."""
    count = draw(st.integers(1, 7))
    nodes = [f"n{i}" for i in range(count)]
    pairs = [(a, b) for i, a in enumerate(nodes) for b in nodes[i + 1 :]]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    found = []
    for _ in range(2):
        labels = draw(st.lists(st.integers(0, count), min_size=count, max_size=count))
        blocks = {}
        for node, label in zip(nodes, labels, strict=True):
            blocks.setdefault(label, []).append(node)
        found.append(acyclic([tuple(b) for b in blocks.values()], edges))
    return nodes, edges, found


def quotient(blocks, edges):
    of = {node: block for block in blocks for node in block}
    graph = nx.DiGraph()
    graph.add_nodes_from(blocks)
    graph.add_edges_from((of[a], of[b]) for a, b in edges if of[a] != of[b])
    return graph


def acyclic(blocks, edges):
    """Break what lies on a cycle into its nodes, until nothing does."""
    while tangled := {b for group in nx.strongly_connected_components(quotient(blocks, edges)) if len(group) > 1 for b in group}:
        blocks = [b for b in blocks if b not in tangled] + [(n,) for b in tangled for n in b]
    return blocks


def all_coarser(blocks):
    """Every partition that holds all the given blocks as a whole."""
    if not blocks:
        yield []
        return
    first, *rest = blocks
    for partition in all_coarser(rest):
        yield [frozenset(first), *partition]
        for i, block in enumerate(partition):
            yield [*partition[:i], block | set(first), *partition[i + 1 :]]


@settings(deadline=None, max_examples=60)
@given(partitioned())
def test_the_common_blocks_are_the_finest_that_cut_no_block_and_form_no_cycle(case):
    nodes, edges, both = case
    joined = finest_common(both, edges, nodes)
    assert sorted(n for block in joined for n in block) == sorted(nodes)
    assert all(any(set(block) <= set(whole) for whole in joined) for partition in both for block in partition)
    assert nx.is_directed_acyclic_graph(quotient(joined, edges))
    position = {n: i for i, block in enumerate(joined) for n in block}
    assert all(position[a] <= position[b] for a, b in edges)
    # brute force: all that cut no block of either; the finest of those that form no cycle is inside every other
    fine = [
        p for p in all_coarser(both[0])
        if all(any(set(block) <= whole for whole in p) for block in both[1])
        and nx.is_directed_acyclic_graph(quotient([tuple(sorted(block)) for block in p], edges))
    ]  # fmt: skip
    assert all(any(set(block) <= whole for whole in p) for p in fine for block in joined)
    assert {frozenset(block) for block in joined} in [set(p) for p in fine]


def test_common_blocks_by_hand():
    #   a -> b -> c -> d      {a b} {c} {d} and {a} {b c} {d} have {a b c} in common
    line = [("a", "b"), ("b", "c"), ("c", "d")]
    one, other = [("a", "b"), ("c",), ("d",)], [("a",), ("b", "c"), ("d",)]
    assert finest_common([one, other], line, "abcd") == [("a", "b", "c"), ("d",)]
    assert finest_common([one], line, "abcd") == one
    #   a -> b -> d, a -> c -> d      {a d} would be before and after b and c
    diamond = [("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")]
    assert finest_common([[("a", "d"), ("b",), ("c",)]], diamond, "abcd") == [("a", "b", "c", "d")]
    #   {a c} and {b d} are each free of cycles, but not together:  a -> b, d -> c
    crossed = [("a", "b"), ("d", "c")]
    both = [[("a", "c"), ("b",), ("d",)], [("a",), ("c",), ("b", "d")]]
    assert finest_common(both, crossed, "adbc") == [("a", "d", "b", "c")]


def test_the_layers_of_one_provider_are_its_blocks(shipped_path, monkeypatch):
    model = read_model(shipped_path)
    cpu = load(shipped_path)
    assert [layer.nodes for layer in cpu.layers] == find_blocks(model)
    monkeypatch.setattr(providers, "KNOWN", (*providers.KNOWN, BOUND, COMPILED))
    assert [layer.nodes for layer in load(shipped_path, providers=["cpu", "compiled"]).layers] == find_blocks(model)
    with pytest.raises(ds.OptionError, match="needs a provider"):
        load(shipped_path, providers=())


def test_layers_of_providers_that_fuse_differently_hold_the_blocks_of_each(tmp_path, monkeypatch):
    path = ALL["res_net"](tmp_path / "m.onnx")
    model = read_model(path)
    own = find_blocks(model)
    # as if another provider fused the first two layers, and kept all others apart
    other = [(*own[0], *own[1]), *((n,) for block in own[2:] for n in block)]
    monkeypatch.setattr("dnnsplit.graph.blocks.find_blocks", lambda model, provider: other if provider.name == "bound" else own)
    monkeypatch.setattr("dnnsplit.graph.blocks.find_provider", lambda name: BOUND if name == "bound" else find("cpu", [CPU]))
    graph = load(path, providers=("cpu", "bound"))
    assert len(graph.layers) == len(own) - 1
    assert set(own[0]) | set(own[1]) == set(graph.layers[0].nodes)


# ---------------------------------------------------------------- profiles


def on(name="here", speed=1.0):
    return ds.Network([ds.Server(name, speed_cpu=speed)])


@pytest.mark.parametrize("provider", [BOUND, COMPILED], ids=lambda p: p.name)
def test_a_profile_is_complete_with_and_without_kernels(net, provider, monkeypatch):
    used = set()

    def traced(model, options=None, provider="cpu"):
        used.add(provider)
        return session(model, options, provider)

    for module in ("profiling.executed", "graph.external_data", "runtime.timing"):
        monkeypatch.setattr(f"dnnsplit.{module}.session", traced)
    pictures = images(2, 32)
    times = ds.profile(
        net, on(), pictures, calibrate(net, pictures), ("c1", "c2"), runs=4, progress=False, splits=3, provider=provider
    )
    array = times.array(net, on(), ("c1", "c2"))
    assert (array[:, :, 0] >= 0).all()
    assert (array[[net.layer_index["c1"], net.layer_index["c2"]], :, 1] > 0).all()
    assert times.overhead["here"].splits == 3
    assert not times.frame["note"].str.contains("no kernel").any()
    assert used == {provider}


def test_times_of_another_provider_say_so_and_are_not_scaled(net, monkeypatch):
    if AZURE not in onnxruntime.get_available_providers():
        pytest.skip(f"{AZURE} is not in this build of ONNX Runtime")
    with pytest.raises(ds.OptionError, match="cannot be scaled to servers by the speeds of CPUs"):
        ds.profile(net, on(speed=0.5), images(1, 32), provider=AZURE)
    with pytest.raises(ds.OptionError, match="cannot be scaled"):
        ds.profile(net, on(), images(1, 32), source_seconds=1.0, provider=AZURE)
    with pytest.raises(ds.ProfileError, match="takes no node of the model: all run on the CPU"):
        profile_here(net.model_path, "edge", images(1, 32), progress=False, provider=AZURE)
    monkeypatch.setattr("dnnsplit.profiling.kernels.left_to_cpu", lambda model, feed, provider: ["pool"])
    times = profile_here(net.model_path, "edge", images(2, 32), count=1, runs=4, splits=3, progress=False, provider=AZURE)
    made = times.made["edge"]
    assert (made["providers"], made["left_to_cpu"]) == ([AZURE], ["pool"])
    assert times.frame["note"].str.startswith(f"on {AZURE} of ").all()
    assert json.dumps(made)


def test_nodes_left_to_the_cpu_are_those_that_the_profiler_saw_there(net, monkeypatch):
    feed, content = {"x": images(1, 32)}, net.model_path.read_bytes()
    real, kernels = json.loads, []

    def half(text):
        event = real(text)
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kernels.append(event["name"])
            event["args"]["provider"] = CPU if len(kernels) == 1 else "OtherExecutionProvider"
        return event

    monkeypatch.setattr("dnnsplit.runtime.timing.json.loads", half)
    left = left_to_cpu(content, feed, BOUND)
    assert len(kernels) > 1
    assert left == [kernels[0].removesuffix("_kernel_time")]


def test_outputs_of_a_shape_that_depends_on_data_and_empty_ones_are_bound_too(tmp_path, monkeypatch):
    bundle = detector(tmp_path)
    monkeypatch.setattr(providers, "KNOWN", (*providers.KNOWN, BOUND))
    rng = np.random.default_rng(0)
    for scores in ([0.2, 0.9, 0.05, 0.5, 0.3, 0.8], [0.0] * 6):
        values = detector_feed(scores, 3)
        expected = detector_numpy(values)
        for part in bundle.parts:
            one = load_part(bundle, part, provider="bound")
            assert isinstance(one, BoundSession)
            names = list(rng.permutation(part.outputs))
            values |= dict(zip(names, one.run(names, {name: values[name] for name in part.inputs}), strict=True))
        for name, array in expected.items():
            np.testing.assert_array_equal(values[name], array)
            assert values[name].shape == array.shape


# ---------------------------------------------------------------- deployment


def test_parts_run_on_the_provider_they_are_given(tmp_path, monkeypatch):
    from helpers.plans import plan_for

    graph = ds.load(conv_net(tmp_path / "net.onnx"))
    bundle = ds.cut(graph.model_path, plan_for(graph, dict.fromkeys(graph.layer_names, "device")), tmp_path / "parts")
    monkeypatch.setattr(providers, "KNOWN", (*providers.KNOWN, BOUND))
    one = load_part(bundle, bundle.parts[0], provider="bound")
    assert isinstance(one, BoundSession)
    pictures, names = {"x": images(1)}, list(bundle.parts[0].outputs)
    expected = load_part(bundle, bundle.parts[0]).run(names, pictures)
    np.testing.assert_array_equal(one.run(names, pictures)[0], expected[0])
    with pytest.raises(ds.OptionError, match="there is no execution provider 'cudda'"):
        serve(bundle.folder, "device", provider="cudda")
    with pytest.raises(ds.OptionError, match="chooses its own provider"):
        serve(bundle.folder, "device", model_server="127.0.0.1:1", provider="bound")


# ---------------------------------------------------------------- what is installed here


@pytest.mark.parametrize("provider", OTHERS, ids=lambda p: p.name)
def test_an_installed_provider_is_close_to_the_cpu_and_can_be_profiled(net, provider, tmp_path):
    needs(provider, tmp_path)
    feed = {"x": images(1, 32)}
    for a, b in zip(session(net.model_path, provider=provider.name).run(None, feed), session(net.model_path).run(None, feed),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
    times = profile_here(net.model_path, "edge", images(2, 32), count=1, runs=4, splits=3, progress=False, provider=provider.name)
    assert times.made["edge"]["providers"] == [provider.ort_name]
    assert sessions.find_provider(provider.name) == provider
