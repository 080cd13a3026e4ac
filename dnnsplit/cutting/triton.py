"""The bundle as a model repository of Triton: one folder per part with ``config.pbtxt`` and ``1/model.onnx``.

A part with its weights in a file of its own is the folder ``1/model.onnx`` with both files in it, as Triton wants it.

Triton serves the parts under their own names (``tritonserver --model-repository FOLDER``); a stage that is given its address
lets it run them, and moves the tensors.

Triton's backend has no option for the optimizer that this project disables (`dnnsplit.runtime.sessions.DISABLED`): there, a
float32 convolution between two int8 layers may run in int8 if a Relu, a Clip or nothing follows it (a SiLU keeps it in
float32). A latency test with the images of the noise tells (`dnnsplit.latency_tests` does so for the parts that run here).
"""

from __future__ import annotations

import json
from pathlib import Path

from dnnsplit.cutting.bundle import Bundle, Part, Wire
from dnnsplit.cutting.checks import DATATYPES
from dnnsplit.ground.files import write_text

FILE = "model.onnx"


def part_file(name: str, several: bool = False) -> str:
    """Return where Triton looks for the first version of a part, of one file or of several, from the bundle's folder."""
    return f"{name}/1/{FILE}/{FILE}" if several else f"{name}/1/{FILE}"


def write_repository(bundle: Bundle) -> list[Path]:
    """Write ``config.pbtxt`` beside the version folder of every part; return the files."""
    return [write_text(bundle.folder / part.name / "config.pbtxt", part_config(bundle, part)) for part in bundle.parts]


def part_config(bundle: Bundle, part: Part) -> str:
    """Return the configuration of a part, in the text form of protocol buffers: no batching, one thread, on the CPU."""
    wires = bundle.wire_by_name
    blocks = [_tensor("input", wires[name]) for name in part.inputs] + [_tensor("output", wires[name]) for name in part.outputs]
    threads = 'parameters { key: "intra_op_thread_count" value: { string_value: "1" } }'
    head = [f"name: {json.dumps(part.name)}", 'platform: "onnxruntime_onnx"', "max_batch_size: 0"]
    return "\n".join([*head, *blocks, "instance_group [ { count: 1 kind: KIND_CPU } ]", threads, ""])


def _tensor(kind: str, wire: Wire) -> str:
    # Triton wants at least one extent; a scalar is one value that is given the shape of a scalar. It knows no extent of 0: one
    # of any size, which is what -1 stands for, may be that.
    shape = f"dims: {[extent or -1 for extent in wire.shape]}" if wire.shape else "dims: [1] reshape: { shape: [] }"
    name = json.dumps(wire.name, ensure_ascii=False)
    return f"{kind} [ {{ name: {name} data_type: TYPE_{DATATYPES[wire.dtype][0]} {shape} }} ]"
