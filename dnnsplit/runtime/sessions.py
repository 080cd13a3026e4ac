"""One way to make ONNX Runtime sessions, so that profiles, noise and deployed parts run under the same options."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort

from dnnsplit.ground.errors import ModelError, OptionError
from dnnsplit.runtime.plugins import BUILT_IN, device_of, installed, is_plugin
from dnnsplit.runtime.providers import CPU, Provider, find

# Which layers run in int8 is the plan's alone. This optimizer turns a float32 Conv or Gemm between DequantizeLinear and
# QuantizeLinear into an int8 one, so that the noise of a deployed scheme could be a third off the measured one.
DISABLED = ("WeightBiasQuantization",)
# a code, a temporary file, a place in ONNX Runtime's source: before what it has to say
_HEAD = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed: ?|/\S+\.(?:cc|h):\d+ [^()]*\(.*?\)(?: const)? ?"
)
LONGEST_S = 30.0  # of a run of a model of which nothing is known yet
_DTYPES = {"float": "float32", "double": "float64"}  # where ONNX Runtime and numpy name a type differently


def session_options(threads: int = 1) -> ort.SessionOptions:
    """Return the options of a deployed part: all optimisations, fixed threads, no spinning."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def find_provider(provider: str | Provider = "cpu") -> Provider:
    """Return an execution provider that is installed here; see `dnnsplit.runtime.providers.find`."""
    if isinstance(provider, Provider):
        return provider
    with suppress(OptionError):  # no plugin is looked for where ONNX Runtime itself has what is asked for
        return find(provider, BUILT_IN)
    return find(provider, installed())


def session(
    model: bytes | str | Path,
    options: ort.SessionOptions | None = None,
    provider: str | Provider = "cpu",
    disabled: Sequence[str] = (),
) -> Session:
    """Load a model, a file or its content, on one execution provider that is named as `dnnsplit.runtime.providers.find` names it.

    Nodes that it does not take run on the CPU, inside ONNX Runtime. One that cannot start is an error; ONNX Runtime alone would
    take the CPU without a word. For a provider with its own memory it is a `BoundSession`, which runs like any other. The options
    are of this session alone: a plugin's provider is added to them.
    Optimizers that are `disabled` stay out, besides `DISABLED`.
    """
    found, options = find_provider(provider), options or session_options()
    content, asked = str(model) if isinstance(model, Path) else model, None
    if is_plugin(found.ort_name):
        options.add_provider_for_devices([device_of(found)], found.plugin_options(options.intra_op_num_threads))
    else:
        asked = found.request(options.intra_op_num_threads, BUILT_IN)
    try:
        one = PlainSession(content, options, providers=asked, enable_fallback=0, disabled_optimizers=[*DISABLED, *disabled])
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        said = said_by(error)
        if not found.is_cpu and _loads_on_cpu(content):
            message = (
                f"execution provider {found.name!r} is installed but cannot start on this machine, or cannot take this model, "
                f"which the CPU takes: {said.rstrip('.')}; use 'cpu', or mend that"
            )
            raise OptionError(message) from None
        where = "" if found.is_cpu else f" on {found.name!r}"
        message = f"ONNX Runtime cannot load the model{where}: {said}"
        raise ModelError(message) from None
    if found.ort_name not in one.get_providers():
        message = (
            f"execution provider {found.name!r} is installed but cannot start on this machine (a driver, a library or the device "
            "is missing; ONNX Runtime's message above says which); use 'cpu', or mend that"
        )
        raise OptionError(message)
    return BoundSession(one) if found.own_memory else one


def said_by(error: Exception) -> str:
    """Return what an exception of ONNX Runtime says, on one line."""
    return _HEAD.sub("", (str(error).strip() or type(error).__name__).splitlines()[0])


class PlainSession(ort.InferenceSession):  # type: ignore[misc]  # ONNX Runtime tells no types
    """A session of which the errors of a run are ours: its own classes share no base, and would reach whoever measures."""

    def run(self, *arguments: Any, **options: Any) -> list[Any]:
        """Run once; see ONNX Runtime."""
        with _told():
            return list(super().run(*arguments, **options))

    def run_with_ort_values(self, *arguments: Any, **options: Any) -> Any:
        """Run once; see ONNX Runtime."""
        with _told():
            return super().run_with_ort_values(*arguments, **options)

    def run_with_iobinding(self, *arguments: Any, **options: Any) -> None:
        """Run once; see ONNX Runtime."""
        with _told():
            super().run_with_iobinding(*arguments, **options)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        message = f"a run of the model fails: {said_by(error)}"
        raise ModelError(message) from None


def _loads_on_cpu(content: str | bytes) -> bool:
    """Whether what failed is the provider, not the model."""
    try:
        ort.InferenceSession(content, session_options(), providers=[CPU], disabled_optimizers=DISABLED)
    except Exception:  # the caller tells of the first failure
        return False
    return True


class BoundSession:
    """A session that runs through IO binding, so that each copy is made, and counted, once.

    Inputs are copied to the provider's memory when they are bound, before the run; outputs are written to arrays of the
    host, which a deployed part has to send; ONNX Runtime makes those of outputs whose shape depends on the data. A run ends
    when its outputs are there. Used like ``onnxruntime.InferenceSession``.
    """

    def __init__(self, one: ort.InferenceSession) -> None:
        self.session = one
        self.get_inputs, self.get_outputs, self.get_providers = one.get_inputs, one.get_outputs, one.get_providers
        self.end_profiling = one.end_profiling
        self.names = [o.name for o in one.get_outputs()]
        self.fixed = {o.name: (_dtype(o.type), tuple(o.shape)) for o in one.get_outputs() if _is_fixed(o.shape)}

    def run(
        self, outputs: Sequence[str] | None, inputs: Mapping[str, np.ndarray], options: ort.RunOptions | None = None
    ) -> list[np.ndarray]:
        """Run once; return the outputs asked for, all when `outputs` is None."""
        binding = self.session.io_binding()  # a new one each time: it holds on to the arrays, and runs may overlap
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        wanted, made = list(outputs or self.names), dict[str, np.ndarray]()
        for name in wanted:
            if name in self.fixed:
                dtype, shape = self.fixed[name]
                array = made[name] = np.empty(shape, dtype)
                binding.bind_output(name, "cpu", 0, dtype.type, shape, array.ctypes.data)
            else:
                binding.bind_output(name, "cpu")
        binding.synchronize_inputs()
        self.session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        return [made[name] if name in made else value.numpy() for name, value in zip(wanted, binding.get_outputs(), strict=True)]


class SlowError(ModelError):
    """A run that does not end is given up."""


def run_within(one: Session, outputs: Sequence[str], feed: Mapping[str, np.ndarray], limit_s: float | None = None) -> list[Any]:
    """Run a model that nobody has run yet; raise a `SlowError` if that takes longer: it may hold a loop without an end."""
    options, limit_s = ort.RunOptions(), LONGEST_S if limit_s is None else limit_s
    late = threading.Timer(limit_s, setattr, (options, "terminate", True))
    late.daemon = True
    late.start()
    try:
        return list(one.run(list(outputs), dict(feed), options))
    except ModelError:
        if not options.terminate:
            raise
        message = f"a run of the model on one input does not end within {limit_s:g} s; does it hold a loop without an end?"
        raise SlowError(message) from None
    finally:
        late.cancel()


Session: TypeAlias = "ort.InferenceSession | BoundSession"


def _is_fixed(shape: Sequence[Any]) -> bool:
    """Whether all extents are numbers; ONNX Runtime gives a name, None or -1 for one that depends on the data."""
    return all(isinstance(extent, int) and extent >= 0 for extent in shape)


def _dtype(kind: str) -> np.dtype[Any]:
    """Numpy's type of ``tensor(float)`` and the like."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype(_DTYPES.get(name, name))
