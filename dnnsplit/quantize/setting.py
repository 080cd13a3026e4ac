"""What int8 means: one setting for the noise, the times and the deployed parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NoiseError, nearest
from dnnsplit.ground.forms import formed
from dnnsplit.ground.markup import shown

ACTIVATIONS = ("uint8", "int8")


@dataclass(frozen=True)
class QuantizationSetting:
    """How tensors become int8.

    Attributes
    ----------
    activation : str
        "uint8" (asymmetric) or "int8" (symmetric). Of the latter ONNX Runtime has fewer kernels, see
        `dnnsplit.quantize.kernels.float32_products`.
    per_channel : bool
        One scale per output channel of the weights, which are always symmetric int8.
    reduce_range : bool
        Weights use 7 of the 8 bits, which keeps CPUs without VNNI from saturating 16-bit sums.
    calibration : str
        "minmax".

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.QuantizationSetting()
    QuantizationSetting(activation='uint8', per_channel=True, reduce_range=True)
    >>> ds.QuantizationSetting.of("thesis")
    QuantizationSetting(activation='int8', per_channel=False, reduce_range=False)
    """

    activation: str = "uint8"
    per_channel: bool = True
    reduce_range: bool = True
    calibration: str = field(default="minmax", repr=False)

    def __post_init__(self) -> None:
        check_arguments(QuantizationSetting, vars(self), NoiseError)
        if self.activation not in ACTIVATIONS:
            message = f"activation type {self.activation!r} is unknown{nearest(self.activation, ACTIVATIONS)}"
            raise NoiseError(message)
        if self.calibration != "minmax":
            message = f"calibration {self.calibration!r} is unknown; there is 'minmax'"
            raise NoiseError(message)

    def _repr_html_(self) -> str:
        zero, bits = "asymmetric" if self.activation == "uint8" else "symmetric", 7 if self.reduce_range else 8
        scales = f"int8, symmetric, {bits} bits, one scale per {'output channel' if self.per_channel else 'tensor'}"
        facts = {"activations": f"{self.activation}, {zero}", "weights": scales, "calibration": self.calibration}
        return shown("QuantizationSetting", facts)

    @staticmethod
    def of(setting: QuantizationSetting | Mapping[str, Any] | str | None) -> QuantizationSetting:
        """Return a setting from its name ("default" or "thesis"), from its JSON value, or as it is; None is the default."""
        check_arguments(QuantizationSetting.of, locals())
        if isinstance(setting, QuantizationSetting):
            return setting
        if isinstance(setting, Mapping):
            return formed(setting, QuantizationSetting, NoiseError, "quantization setting")
        if setting is not None and setting not in SETTINGS:
            message = f"quantization setting {setting!r} is unknown{nearest(setting, SETTINGS)}"
            raise NoiseError(message)
        return SETTINGS[setting or "default"]


#: The thesis' setting: S8S8, symmetric, per tensor.
THESIS = QuantizationSetting("int8", per_channel=False, reduce_range=False)
SETTINGS = {"default": QuantizationSetting(), "thesis": THESIS}


def mixed_settings(origins: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say where int8 means two different things: noise of one setting beside times of another is worth nothing.

    `origins` are those of samples, times, a plan and so on, by what they are called; one without a setting says nothing.
    """
    of: dict[QuantizationSetting, list[str]] = {}
    for what, origin in origins.items():
        if origin.get("setting"):
            of.setdefault(QuantizationSetting.of(origin["setting"]), []).append(f"the {what}")
    if len(of) < 2:
        return []
    told = {next((repr(name) for name, one in SETTINGS.items() if one == setting), repr(setting)): of[setting] for setting in of}
    mixed = ", ".join(f"{setting} in {' and '.join(names)}" for setting, names in told.items())
    way_out = f"measure all with one: {' or '.join(f'setting={setting}' for setting in told)} (--setting on the command line)"
    return [f"quantization settings are mixed, {mixed}; {way_out}"]


def check_one_setting(origins: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise NoiseError with what `mixed_settings` says, if that is anything."""
    for message in mixed_settings(origins):
        raise NoiseError(message)
