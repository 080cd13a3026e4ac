"""Constants and shapes, asked of ONNX Runtime: it decides which model is valid, what is constant, and how large tensors are."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import onnx

from dnnsplit.graph.cleanup import free, keep_nodes, name_nodes, node_inputs, without_weights
from dnnsplit.graph.optimizing import FOLDED, optimize
from dnnsplit.ground.errors import ModelError

# All that ONNX Runtime does at its first level besides folding constants, a branch of an If and functions: the layers of a graph
# are the file's own nodes, and what is fused is asked later. A name that some version does not know is ignored there.
_OTHERS = (
    "CastChainElimination", "CastElimination", "ClipQuantFusion", "CommonSubexpressionElimination", "ConstantSharing",
    "ConvAddFusion", "ConvBNFusion", "ConvMulFusion", "DivMulFusion", "DoubleQDQPairsRemover", "EliminateDropout",
    "EliminateIdentity", "EliminateSlice", "EnsureUniqueDQForNodeUnit", "ExpandElimination",
    "FuseFp16InitializerToFp32NodeTransformer", "FuseReluClip", "GatherSliceToSplitFusion", "GatherToSliceFusion",
    "GemmSumFusion", "GemmTransposeFusion", "LabelEncoderFusion", "Level1_RuleBasedTransformer", "MatMulAddFusion",
    "MatMul_BatchNormalization_Fusion", "NoopElimination", "NotWhereFusion", "PadFusion", "PreShapeNodeElimination",
    "PropagateCastOps", "QDQPropagationTransformer", "ReluQuantFusion", "RemoveDuplicateCastTransformer", "ReshapeFusion",
    "TransposeOptimizer", "UnsqueezeElimination", "WhereDummyDq",
)  # fmt: skip


def fold(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Take out of a model, in place, what follows from constants alone; return the types of all tensors that are left.

    Nodes keep their names and form, so that a model without such is what it was. Large weights are left out of the question:
    what rests on them stays as it is. Local functions are written out.

    Raises
    ------
    ModelError
        ONNX Runtime does not take the model.
    """
    own = {weight.name for weight in proto.graph.initializer}
    try:
        folded = _folded(without_weights(proto), own)
    except ModelError:  # some kernels want their weights to be constants
        folded = _folded(without_weights(proto, math.inf), own)
    graph = proto.graph
    same = _same_nodes(proto, folded.graph)
    new = _new_nodes(graph, folded.graph, same)
    position, last = {node.name: i for i, node in enumerate(graph.node)}, -1
    ranked = [(position[node.name], node) for node in graph.node if node.name in same]
    for node in folded.graph.node:
        last = position.get(node.name, last)  # what is new, like the body of a function, comes with what it follows
        if node.name not in same and not new.isdisjoint(node.output):
            ranked.append((last, node))
    ranked.sort(key=lambda pair: pair[0])
    keep_nodes(graph, [node for _, node in ranked])
    graph.initializer.extend(weight for weight in folded.graph.initializer if weight.name not in own)
    del proto.functions[:]
    proto.ir_version = max(proto.ir_version, 4)  # from which on weights need not be inputs too
    add_domains(proto, folded.opset_import)
    if new:  # of which the tensors have not been asked for
        name_nodes(graph)
        return fold(proto)
    return {value.name: value.type for value in (*folded.graph.input, *folded.graph.output)}


def _same_nodes(proto: onnx.ModelProto, folded: onnx.GraphProto) -> set[str]:
    """Return the names of nodes that ONNX Runtime has kept, or written out although the file knows them as an operator."""
    kinds = {node.name: (node.op_type, node.domain) for node in folded.node}
    kept = {node.name for node in proto.graph.node if kinds.get(node.name) == (node.op_type, node.domain)}
    made = {name for node in folded.node if node.name not in kept for name in node.output}
    written_out = {(function.name, function.domain) for function in proto.functions} | {("If", "")}
    known = (node for node in proto.graph.node if (node.op_type, node.domain) not in written_out)
    return kept | {node.name for node in known if not made.isdisjoint(node.output)}


def _new_nodes(graph: onnx.GraphProto, folded: onnx.GraphProto, same: set[str]) -> set[str]:
    """Return the outputs of nodes that ONNX Runtime has put in the place of others; Casts for its own kernels are none."""
    if all(node.name in same for node in folded.node):
        return set()
    kept = [node for node in graph.node if node.name in same]
    made = {name for node in kept for name in node.output}
    wanted = {*(value.name for value in graph.output), *(name for node in kept for name in node_inputs(node))} - made
    new = set[str]()
    for node in reversed(folded.node):
        if node.name not in same and not wanted.isdisjoint(node.output):
            new.update(node.output)
            wanted.update(set(node_inputs(node)) - made)
    return new


def _folded(proto: onnx.ModelProto, known: Collection[str]) -> onnx.ModelProto:
    """Return a model as ONNX Runtime folds it, all its tensors among its outputs; in place."""
    graph = proto.graph
    there = {*known, *(value.name for value in graph.output)}
    graph.output.extend(
        onnx.ValueInfoProto(name=name) for node in graph.node for name in node.output if name and name not in there
    )
    # ONNX Runtime writes down what it infers only where it changed the graph: there is always this one constant to fold
    mark = free("folded", there)
    graph.initializer.add(name=f"{mark}/constant", data_type=onnx.TensorProto.INT64, int64_data=[0])
    graph.node.add(op_type="Identity", name=mark, input=[f"{mark}/constant"], output=[mark])
    graph.output.add(name=mark)
    return optimize(proto, FOLDED, disabled=_OTHERS, known=known)


def add_domains(proto: onnx.ModelProto, known: Iterable[onnx.OperatorSetIdProto]) -> None:
    """Import the domains of nodes that a model does not import yet, in place, in the versions that are known."""
    there = {one.domain for one in proto.opset_import}
    used = {node.domain for node in proto.graph.node}
    proto.opset_import.extend(one for one in known if one.domain in used - there)
