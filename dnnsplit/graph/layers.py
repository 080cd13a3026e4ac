"""The logical graph: layers, the tensors that move between them, and nothing about servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import pandas as pd

from dnnsplit.graph import shared_weights
from dnnsplit.graph.checks import graph_problems
from dnnsplit.graph.shared_weights import Shared
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import ModelError, OptionError, nearest, raise_problems
from dnnsplit.ground.markup import Told, folded, readable, shown
from dnnsplit.ground.units import show

if TYPE_CHECKING:
    from dnnsplit.graph.onnx_file import Model

QUANTIZABLE_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, repr=False)
class Layer(Told):
    """A layer i in V_D: what is placed on a server as a whole.

    Parameters
    ----------
    name : str
        Unique.
    op_type : str, default ""
        The operator that does the work, as ONNX names it.
    flops : float, default 0.0
        Floating-point operations of one inference (2 x multiply-accumulates).
    weight_bytes : float, default 0.0
        Size of its constants [B].
    nodes : tuple[str, ...], default ()
        Names of the ONNX nodes that ONNX Runtime runs as this layer; empty for graphs built by hand.
    quantizable : bool | None, optional
        Whether an int8 kernel could run it; None derives it from `op_type`.
    shared : Shared, default ()
        (name, size [B]) of the constants among its `weight_bytes` that other layers have too.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.Layer("conv1", "Conv", flops=4e6, weight_bytes=4e4)
    Layer(conv1: operator Conv; work 4 MFLOP; weights 40 kB; quantizable True)
    """

    name: str
    op_type: str = ""
    flops: float = 0.0
    weight_bytes: float = 0.0
    nodes: tuple[str, ...] = ()
    quantizable: bool | None = None
    shared: Shared = ()

    def __post_init__(self) -> None:
        check_arguments(Layer, vars(self), ModelError, but=("flops", "weight_bytes"))
        if self.quantizable is None:
            object.__setattr__(self, "quantizable", self.op_type in QUANTIZABLE_OPS)

    def _told(self) -> tuple[object, Mapping[str, object]]:
        sizes = {"work": show(self.flops, "FLOP"), "weights": show(self.weight_bytes, "B"), "ONNX nodes": ", ".join(self.nodes)}
        return self.name, {"operator": self.op_type, **sizes, "quantizable": self.quantizable}


@dataclass(frozen=True, repr=False)
class Tensor(Told):
    """A tensor t in T_D.

    Parameters
    ----------
    name : str
        Unique.
    producer : str | None
        Layer name, or None for an input of the graph.
    consumers : tuple[str, ...], default ()
        Layer names; empty for a pure output.
    size_bytes : float, default 0.0
        Size in float32 (or its own type) [B].
    is_output : bool, default False
        Whether the graph delivers it.
    shape, dtype : tuple[int, ...], str
        As ONNX gives them; empty for graphs built by hand.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.Tensor("image", None, ("conv1",), 1.2e6)
    Tensor(image: size 1.2 MB; producer input of the graph; consumers conv1)
    """

    name: str
    producer: str | None
    consumers: tuple[str, ...] = ()
    size_bytes: float = 0.0
    is_output: bool = False
    shape: tuple[int, ...] = ()
    dtype: str = ""

    def __post_init__(self) -> None:
        consumers = (self.consumers,) if isinstance(self.consumers, str) else self.consumers
        check_arguments(Tensor, {**vars(self), "consumers": consumers}, ModelError, but=("size_bytes",))
        object.__setattr__(self, "consumers", tuple(dict.fromkeys(consumers)))

    @property
    def handled_bytes(self) -> float:
        """What servers handle where the tensor crosses [B]: in float32, as they unpack it; 0 for mere inputs and outputs."""
        return self.size_bytes if self.producer is not None and self.consumers else 0.0

    def _told(self) -> tuple[object, Mapping[str, object]]:
        readers = [*self.consumers, *(["output of the graph"] if self.is_output else [])]
        ends = {"producer": self.producer or "input of the graph", "consumers": ", ".join(readers)}
        form = f"{self.dtype} {' x '.join(map(str, self.shape))}".strip()
        return self.name, {"size": show(self.size_bytes, "B"), "form": form, **ends}


@dataclass(frozen=True)
class LayerGraph:
    """The logical graph G_D = (V_D, E_D) with its tensors T_D.

    Parameters
    ----------
    layers : tuple[Layer, ...]
        At least one; kept in the order given.
    tensors : tuple[Tensor, ...]
        Each with its producer and all its consumers.
    model_path, model_sha256 : Path | None, str
        The ONNX file it was read from by `dnnsplit.load`, and the hash of its content.
    providers : tuple[str, ...], default ()
        Execution providers whose layers these are.
    shapes : Mapping[str, tuple[int, ...]], optional
        Of inputs that are open in the file, as they were given to `dnnsplit.load`.
    notes : tuple[str, ...], default ()
        What is worth knowing of how the file was read, a sentence each.
    weights : str, default ""
        What the file's metadata say of its weights under that name, such as "untrained: random, ..."; "" where they say nothing.

    Raises
    ------
    ModelError
        Duplicate or unknown names, negative sizes, a cycle; all of them at once.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> layers = [ds.Layer("a", "Conv", 1e6), ds.Layer("b", "Relu")]
    >>> tensors = [ds.Tensor("x", None, ("a",), 100), ds.Tensor("t", "a", ("b",), 50), ds.Tensor("y", "b", (), 50, True)]
    >>> graph = ds.LayerGraph(layers, tensors)
    >>> graph
    LayerGraph(2 layers, 3 tensors, 1 MFLOP, 0 B of weights)
    >>> graph.quantizable(1)
    ('a',)
    """

    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    model_path: Path | None = field(default=None, compare=False)
    model_sha256: str = field(default="", compare=False)
    providers: tuple[str, ...] = field(default=(), compare=False)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    weights: str = field(default="", compare=False)
    _model: Model | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_arguments(LayerGraph, vars(self), ModelError)
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "tensors", tuple(self.tensors))
        raise_problems(ModelError, "layer graph", list(graph_problems(self)))

    @property
    def model(self) -> Model:
        """The ONNX model behind the graph, as it was read: what becomes of the file since does not count.

        A pickled graph leaves the model behind, and reads the file again when it is asked for it first.

        Raises
        ------
        ModelError
            The graph was built by hand; or it was pickled, and the file is gone or no longer the same.
        """
        model = self._model
        if model is None:
            from dnnsplit.graph.reading import read_model  # here: who plans with given numbers does without ONNX

            if self.model_path is None:
                message = "this graph was built by hand, with no model to run; take one from dnnsplit.load('model.onnx')"
                raise ModelError(message)
            model = read_model(self.model_path, self.model_sha256, self.shapes)
            object.__setattr__(self, "_model", model)
        return model

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_model": None}

    def __deepcopy__(self, memo: object = None) -> LayerGraph:
        return self  # it never changes, and a copy by way of `__getstate__` would lose what was read

    __copy__ = __deepcopy__

    @cached_property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers, in the order given."""
        return tuple(layer.name for layer in self.layers)

    @cached_property
    def layer_index(self) -> dict[str, int]:
        """Position of each layer by name."""
        return {name: i for i, name in enumerate(self.layer_names)}

    def layer(self, name: str) -> Layer:
        """Return the layer called `name`."""
        check_arguments(LayerGraph.layer, locals(), ModelError)
        if name not in self.layer_index:
            message = f"there is no layer {name!r}{nearest(name, self.layer_names)}"
            raise ModelError(message)
        return self.layers[self.layer_index[name]]

    @cached_property
    def digraph(self) -> nx.DiGraph[str]:
        """The layers as a networkx graph: nodes carry the fields of their `Layer`, edges the sum of the bytes between two."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from((layer.name, vars(layer)) for layer in self.layers)
        for tensor, producer in ((t, t.producer) for t in self.tensors if t.producer is not None):
            for consumer in tensor.consumers:
                size = graph.get_edge_data(producer, consumer, {"size_bytes": 0.0})["size_bytes"]
                graph.add_edge(producer, consumer, size_bytes=size + tensor.size_bytes)
        return graph

    @cached_property
    def topological(self) -> tuple[str, ...]:
        """Layer names such that producers come before consumers; ties keep the order given."""
        return tuple(nx.lexicographical_topological_sort(self.digraph, key=self.layer_index.__getitem__))

    @cached_property
    def topological_index(self) -> dict[str, int]:
        """Position of each layer in `topological`, by name."""
        return {name: i for i, name in enumerate(self.topological)}

    @cached_property
    def outputs_of(self) -> dict[str, tuple[Tensor, ...]]:
        """Tensors that each layer produces."""
        made: dict[str, list[Tensor]] = {name: [] for name in self.layer_names}
        for tensor in self.tensors:
            if tensor.producer is not None:
                made[tensor.producer].append(tensor)
        return {name: tuple(tensors) for name, tensors in made.items()}

    def quantizable(self, count: int = 12, by: str = "flops", without: str | Iterable[str] = ()) -> tuple[str, ...]:
        """Return V_Q: the first `count` layers that int8 kernels exist for, in topological order.

        Candidates are Conv, ConvTranspose, Gemm and MatMul layers with constant weights and one output tensor.

        Parameters
        ----------
        count : int, default 12
            How many; all candidates where there are fewer.
        by : str, default "flops"
            "flops" (2 x multiply-accumulates: the time that int8 may save) or "wire" (bytes that the output saves in int8 where
            it crosses a link, three quarters of it).
        without : str | Iterable[str], default ()
            Names of layers to leave out, such as `dnnsplit.noise.metrics.fragile` ones.
        """
        check_arguments(LayerGraph.quantizable, locals(), least={"count": 0})
        without = {without} if isinstance(without, str) else {*without}
        for name in without:
            self.layer(name)
        saved = {
            "flops": lambda layer: layer.flops,
            "wire": lambda layer: 0.75 * sum(t.size_bytes for t in self.outputs_of[layer.name]),
        }
        if by not in saved:
            message = f"layers are quantized by 'flops' or by 'wire', not by {by!r}"
            raise OptionError(message)
        candidates = [layer for layer in self.layers if layer.quantizable and layer.name not in without]
        chosen = {layer.name for layer in sorted(candidates, key=saved[by], reverse=True)[:count]}
        return tuple(name for name in self.topological if name in chosen)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per layer: layer, op_type, flops, weight_bytes [B], output_bytes [B], nodes (count), quantizable, shared."""
        frame = pd.DataFrame({
            "layer": self.layer_names,
            "op_type": [layer.op_type for layer in self.layers],
            "flops": [float(layer.flops) for layer in self.layers],
            "weight_bytes": [float(layer.weight_bytes) for layer in self.layers],
            "output_bytes": [float(sum(t.size_bytes for t in self.outputs_of[n])) for n in self.layer_names],
            "nodes": [len(layer.nodes) for layer in self.layers],
            "quantizable": [bool(layer.quantizable) for layer in self.layers],
            "shared": [shared_weights.to_text(layer.shared) for layer in self.layers],
        })  # fmt: skip
        frame.attrs["units"] = {"flops": "FLOP", "weight_bytes": "B", "output_bytes": "B"}
        return frame

    @property
    def tensors_frame(self) -> pd.DataFrame:
        """One row per tensor: tensor, producer, consumers (separated by blanks), size_bytes [B], is_output."""
        return pd.DataFrame({
            "tensor": [t.name for t in self.tensors],
            "producer": [t.producer or "" for t in self.tensors],
            "consumers": [" ".join(t.consumers) for t in self.tensors],
            "size_bytes": [float(t.size_bytes) for t in self.tensors],
            "is_output": [bool(t.is_output) for t in self.tensors],
        })  # fmt: skip

    @staticmethod
    def from_frames(layers: pd.DataFrame, tensors: pd.DataFrame) -> LayerGraph:
        """Build a graph from the tables that `frame` and `tensors_frame` give (also as read from CSV)."""
        check_arguments(LayerGraph.from_frames, locals(), ModelError)
        for frame, needed in ((layers, ("layer",)), (tensors, ("tensor", "producer", "consumers", "size_bytes"))):
            if not isinstance(frame, pd.DataFrame):
                message = f"layers and tensors come as pandas DataFrames, not as {type(frame).__name__}"
                raise ModelError(message)
            if missing := [column for column in needed if column not in frame]:
                message = f"the table lacks the columns {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}"
                raise ModelError(message)
        # a column without any text comes back from a CSV as floats
        text = tensors.astype({"producer": object, "consumers": object}).fillna({"producer": "", "consumers": ""})
        texts = [c for c in ("op_type", "shared") if c in layers]
        layers = layers.astype(dict.fromkeys(texts, object)).fillna(dict.fromkeys(texts, ""))
        found = [
            Layer(
                row["layer"], row.get("op_type", ""), row.get("flops", 0.0), row.get("weight_bytes", 0.0),
                quantizable=bool(row["quantizable"]) if "quantizable" in row else None,
                shared=shared_weights.from_text(row.get("shared", ""), row["layer"]),
            )
            for row in layers.to_dict("records")
        ]  # fmt: skip
        moved = [
            Tensor(row["tensor"], row["producer"] or None, tuple(str(row["consumers"]).split()), row["size_bytes"],
                   bool(row.get("is_output", False)))
            for row in text.to_dict("records")
        ]  # fmt: skip
        return LayerGraph(tuple(found), tuple(moved))

    def __repr__(self) -> str:
        flops = show(sum(layer.flops for layer in self.layers), "FLOP")
        weights = show(shared_weights.total_bytes(self.layers), "B")
        size = f"{len(self.layers)} layer{'s' * (len(self.layers) != 1)}, {len(self.tensors)} tensors"
        return folded(f"LayerGraph({size}, {flops}, {weights} of weights)")

    def _repr_html_(self) -> str:
        from dnnsplit.graph.drawing import drawn  # here: it is needed where a graph is looked at alone

        top = readable(self.frame.nlargest(12, "flops"))
        facts = [{"weights": self.weights}] if self.weights else []
        return shown(self, *facts) + drawn(self) + shown("layers with most FLOPs", top)
