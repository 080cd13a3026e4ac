"""Execution providers of ONNX Runtime by short name: what brings each, how it is asked for, and how its time is taken."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dnnsplit.ground.errors import OptionError, nearest

CPU = "CPUExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """What is known of an execution provider."""

    name: str  # as people write it
    ort_name: str  # as ONNX Runtime names it
    package: str = ""  # on PyPI, that brings it and ONNX Runtime; "" where none is known
    plugin: str = ""  # on PyPI, that brings it alone, beside any ONNX Runtime; "" where none is known
    compiles: bool = True  # whole subgraphs; ONNX Runtime then sees neither kernels nor fusions inside them
    own_memory: bool = True  # whether its tensors are elsewhere than in the host's memory
    then: tuple[str, ...] = ()  # providers that ONNX Runtime asks next for nodes that this one does not take, before the CPU
    device: str = ""  # which of several; "" takes the first. For OpenVINO its device type (CPU, GPU, NPU), else a number

    @property
    def text(self) -> str:
        """The name with the device, as `find` reads it."""
        return f"{self.name}:{self.device}" if self.device else self.name

    @property
    def is_cpu(self) -> bool:
        """Whether this is ONNX Runtime's own provider on the CPU."""
        return self.ort_name == CPU

    @property
    def clock(self) -> Callable[[], float]:
        """What a run is timed with [s]: CPU time of the calling thread where that thread computes, else wall time.

        It computes on ONNX Runtime's CPU, and on OpenVINO's with one thread: there CPU time is undisturbed by other processes.
        """
        here = self.is_cpu or (self.ort_name == OPENVINO and self.wanted == "CPU")
        return time.thread_time if here else time.perf_counter

    @property
    def wanted(self) -> str:
        """The device to ask for; "" where ONNX Runtime takes the first."""
        return self.device or ("CPU" if self.ort_name == OPENVINO else "")

    def request(self, threads: int, installed: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
        """Return ONNX Runtime's ``providers`` argument: this one, those after it that are installed, and the CPU."""
        options = {"device_id": self.device} if self.device else {}
        if self.ort_name == OPENVINO:
            options = {"device_type": self.wanted, "num_of_threads": str(threads)}  # 8 unless it is told
        names = dict.fromkeys([*(name for name in self.then if name in installed), CPU])
        return [(self.ort_name, options), *((name, {}) for name in names if name != self.ort_name)]

    def plugin_options(self, threads: int) -> dict[str, str]:
        """Return the options of a plugin's provider, beside its device; OpenVINO's takes its threads in other words."""
        return {"load_config": json.dumps({"CPU": {"INFERENCE_NUM_THREADS": str(threads)}})} if self.ort_name == OPENVINO else {}


# Tried: the CPU, and OpenVINO on a CPU, as part of ONNX Runtime and as a plugin. The others follow ONNX Runtime's documentation.
KNOWN = (
    Provider("cpu", CPU, "onnxruntime", compiles=False, own_memory=False),
    Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", compiles=False),
    Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu", then=("CUDAExecutionProvider",)),
    Provider("openvino", OPENVINO, "onnxruntime-openvino", "onnxruntime-ep-openvino", own_memory=False),  # it copies by itself
    Provider("tensorrt-rtx", "NvTensorRTRTXExecutionProvider", plugin="onnxruntime-ep-nv-tensorrt-rtx"),
    Provider("webgpu", "WebGpuExecutionProvider", plugin="onnxruntime-ep-webgpu", compiles=False),
)


def find(text: str, installed: Sequence[str]) -> Provider:
    """Return a provider by its short or full name, which a device may follow: "cuda:1", "openvino:GPU".

    One that is installed (`installed` are full names) but unknown here is taken for one that compiles and has its own memory.
    """
    name, _, device = text.partition(":")
    by_name = {p.ort_name.lower(): p for p in (*(Provider(n, n) for n in installed), *KNOWN)}
    by_name |= {p.name: p for p in KNOWN}
    here = [p.name for p in {p.ort_name: p for p in by_name.values()}.values() if p.ort_name in installed]
    if name.lower() not in by_name:
        message = (
            f"there is no execution provider {name!r}{nearest(name, [p.name for p in by_name.values()])}; "
            f"installed: {', '.join(here)}"
        )
        raise OptionError(message)  # fmt: skip
    found = by_name[name.lower()]
    if found.ort_name not in installed:
        beside = [f"beside the onnxruntime package that is here: pip install {found.plugin}"] if found.plugin else []
        instead = [f"uninstall the onnxruntime package that is here, then: pip install {found.package}"] if found.package else []
        ways = ", or ".join([*instead, *beside])
        message = f"execution provider {found.name!r} is not installed here; installed: {', '.join(here)}; {ways}"
        raise OptionError(message)
    if device and found.is_cpu:
        message = f"provider {text!r}: the CPU has no devices to choose from; write {found.name!r}"
        raise OptionError(message)
    return replace(found, device=device)
