"""How much work something is, counted: the instructions that Python runs in the package, whatever the machine is like.

Searches inside of C (``name in a_tuple``, ``names.count``) are no instructions; they show with names that are `Name`, since
comparing two of those is.
"""

import sys
from functools import partial
from pathlib import Path

import onnx
from onnx import TensorProto, helper

import dnnsplit as ds

COUNTED = (str(Path(ds.__file__).parent), __file__)
MOST = 2.5  # times as much for twice as many: n log n is below, n^2 is 4


class Name(str):
    """A name whose comparisons count."""

    __slots__ = ()

    def __eq__(self, other):
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def operations(work):
    """Return how many instructions of the package a call of `work` takes."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.startswith(COUNTED):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def check_linear(make, work, size=150):
    """Assert that `work(make(n))` is about twice as much for twice as many; making it does not count."""
    work(make(4))  # what is imported, or made once
    few, many = (operations(partial(work, make(n))) for n in (size, 2 * size))
    assert 0 < many <= MOST * few, f"{few} instructions for {size}, {many} for twice as many"


def chain(count):
    """Layers of which each reads the one before, and every third another one too."""
    names = [Name(f"l{i}") for i in range(count)]
    layers = [ds.Layer(name, "MatMul", 1e6, 100.0) for name in names]
    tensors = [ds.Tensor(Name("x"), None, (names[0],), 1e4)]
    for i, name in enumerate(names):
        readers = [*names[i + 1 : i + 2], *(names[i + 3 : i + 4] if i % 3 == 0 else [])]
        tensors.append(ds.Tensor(Name(f"t{i}"), name, tuple(readers), 1e4 + i, i == count - 1))
    return ds.LayerGraph(layers, tensors)


def fan(count):
    """One layer that all others read, and one that reads all of them."""
    first, *names, last = (Name(f"l{i}") for i in range(count))
    layers = [ds.Layer(name, "MatMul", 1e6, 100.0) for name in (first, *names, last)]
    tensors = [ds.Tensor(Name("x"), None, (first,), 1e4), ds.Tensor(Name("t"), first, tuple(names), 1e4)]
    tensors += [ds.Tensor(Name(f"t{name}"), name, (last,), 1e4) for name in names]
    return ds.LayerGraph(layers, [*tensors, ds.Tensor(Name("y"), last, (), 1e4, is_output=True)])


def star(count, name=Name):
    """A device with a link to each of some servers, and back."""
    names = [name(f"s{k}") for k in range(count)]
    ends = [pair for other in names[1:] for pair in ((names[0], other), (other, names[0]))]
    return ds.Network([ds.Server(n, 1.0, 0.5) for n in names], [ds.Link(a, b, 1e7, 1e-3) for a, b in ends], names[0])


def times_of(graph, network):
    """Seconds of every layer on every server."""
    import pandas as pd

    rows = [(n, s, "float32", 1e-3 / (1 + k % 3)) for k, s in enumerate(network.server_names) for n in graph.layer_names]
    return ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]).assign(factor=2.0))


def products(count, path, kind="chain"):
    """Write a model of products of 1 x 4 with a matrix: a chain, a fan, or each with an input and an output of its own."""
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in _ends(count, kind)}
    matrix = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], [1.0, *[0.0] * 4] * 3 + [1.0])
    nodes = []
    for i in range(count):
        read = {"chain": f"t{i}", "fan": "t0", "many": f"x{i}"}[kind]
        nodes.append(helper.make_node("MatMul", [read, "w"], [f"y{i}" if kind == "many" else f"t{i + 1}"], name="same"))
    if kind == "fan":
        nodes.append(helper.make_node("Sum", [f"t{i + 1}" for i in range(count)], ["y"], name="last"))
    reads = [one for name, one in info.items() if name[0] == "x" or name == "t0"]
    gives = [one for one in info.values() if one not in reads]
    graph = helper.make_graph(nodes, "products", reads, gives, [matrix])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _ends(count, kind):
    if kind == "many":
        return [f"{end}{i}" for end in "xy" for i in range(count)]
    return ["t0", "y" if kind == "fan" else f"t{count}"]
