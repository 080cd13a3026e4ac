"""Measured noise of quantization schemes, with its spread over the images that it was measured on."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NoiseError, nearest, raise_problems, shortened
from dnnsplit.ground.files import plain, write_text
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.markup import folded, shown
from dnnsplit.ground.tables import MOST_BYTES, header_of, read_table
from dnnsplit.ground.units import is_number, is_whole
from dnnsplit.noise.schemes import pack_schemes
from dnnsplit.quantize.setting import mixed_settings

SPREAD = ("noise_std", "noise_images")
OTHER = ("noise", *SPREAD)  # columns that are no layers
SOURCE = "source"  # column of the form of the inputs, in tables that hold several


@dataclass(frozen=True, eq=False)
class NoiseSamples:
    """Measured noise of quantization schemes.

    Parameters
    ----------
    frame : pd.DataFrame
        One 0/1 column per layer (1: it runs in int8) and the column ``noise`` (rho, 0 or more: the mean over images); without
        layers one row of noise 0. Where it is known, also ``noise_std``, its sample standard deviation over the images (NaN of
        one), and ``noise_images``, how many there were.
    origin : Mapping[str, Any], optional
        What the samples depend on: model, images, quantization setting, metric (JSON values); ``notes`` are sentences on what
        was not measured, and why.
    details : pd.DataFrame | None, optional
        One row per sample: other metrics by name, and their sample standard deviation over the images as ``NAME std``. They are
        saved where `save` is asked for them, and not divided.
    sources : Mapping[str, NoiseSamples], optional
        Noise of schemes where the inputs come in a lossy form, by its name: of the same layers, the scheme that quantizes
        nothing among them, whose noise is that of the form alone. Their origin names the form as ``source``.
    tensors : Mapping[str, Mapping[str, float]], optional
        Noise of one tensor between layers alone in a lossy form, by tensor and form (see `measure_wire_noise`).

    Raises
    ------
    NoiseError
        No ``noise`` column, entries other than 0 and 1, negative noise, a scheme given twice, a form of other layers or without
        its noise alone.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> samples = ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / "yolo11n-ppe-320.csv")
    >>> len(samples.frame), len(samples.layers)
    (4096, 12)
    >>> train, test = samples.divide(1000)
    >>> len(train.frame), len(test.frame)
    (1000, 3096)
    """

    frame: pd.DataFrame = field(repr=False)
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)
    details: pd.DataFrame | None = field(default=None, repr=False)
    sources: Mapping[str, NoiseSamples] = field(default_factory=dict, repr=False)
    tensors: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_arguments(NoiseSamples, vars(self), NoiseError)
        frame = self.frame.reset_index(drop=True).copy()
        layers = [c for c in frame if c not in OTHER]
        alone = "noise" in frame and len(frame) == 1 and (SOURCE in self.origin or frame["noise"].tolist() == [0])
        if "noise" not in frame or not (layers or alone):
            message = f"noise samples need one column per layer and the column 'noise'; there are {list(frame.columns)}"
            raise NoiseError(message)
        same = frame.columns[frame.columns.duplicated()]
        if len(same):
            message = f"noise samples: two columns are named {same[0]!r}; names must be unique"
            raise NoiseError(message)
        spread = [c for c in SPREAD if c in frame]
        if len(spread) == 1:
            message = f"noise samples have the column {spread[0]!r}; a spread over images needs {' and '.join(SPREAD)}"
            raise NoiseError(message)
        frame = frame[[*layers, "noise", *spread]].apply(pd.to_numeric, errors="coerce")
        problems = [f"column {c!r} holds values other than 0 and 1" for c in layers if not frame[c].isin((0, 1)).all()]
        bad = frame[~(frame["noise"] >= 0) | ~np.isfinite(frame["noise"])]
        problems += [f"row {i}: noise {value!r}; it must be a number, 0 or more" for i, value in bad["noise"].items()]
        if spread:
            known = (frame["noise_std"] >= 0) & np.isfinite(frame["noise_std"]) & (frame["noise_images"] >= 2)
            odd = frame[~known & ~(frame["noise_std"].isna() & (frame["noise_images"] == 1))]
            problems += [f"row {i}: a spread over images is 0 or more, over 2 images or more" for i in odd.index]
        twice = frame[frame.duplicated(layers or None)]
        problems += [f"row {i}: this scheme is given twice" for i in twice.index]
        if not len(frame):
            problems.append("there is no sample")
        if self.details is not None and len(self.details) != len(frame):
            problems.append(f"there are details of {len(self.details)} samples, and {len(frame)} samples")
        problems += self._of_forms([*layers])
        raise_problems(NoiseError, "noise samples", problems, most=8)
        frame[layers] = frame[layers].astype(np.int8)
        object.__setattr__(self, "frame", frame)

    def _of_forms(self, layers: Sequence[Hashable]) -> list[str]:
        """Say what is wrong with the noise of lossy forms."""
        problems = []
        if self.sources and SOURCE in layers:
            problems.append(f"a layer is called {SOURCE!r}, as the column of forms is; rename it")
        for form, samples in self.sources.items():
            if [*samples.layers] != layers:
                problems.append(
                    f"form {form!r} is measured with the layers {[*samples.layers]}, inputs as they are with {layers}"
                )
            if samples.schemes.any(axis=1).all():
                problems.append(f"form {form!r} is not measured alone, with nothing quantized")
            if (samples.spread is None) == ("noise_std" in self.frame):
                problems.append(f"form {form!r} alone, or all others, tell no spread over images; measure all at once")
            if samples.origin.get(SOURCE) != form:
                problems.append(f"the origin of form {form!r} has the source {samples.origin.get(SOURCE)!r}; it must be the form")
        for tensor, forms in self.tensors.items():
            problems += [
                f"tensor {tensor!r} as {form!r}: noise {noise!r}; it must be a number, 0 or more"
                for form, noise in forms.items()
                if not is_number(noise) or not 0 <= noise < np.inf
            ]
        return problems

    @staticmethod
    def from_frame(
        frame: pd.DataFrame,
        origin: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Mapping[str, float]] | None = None,
    ) -> NoiseSamples:
        """Make samples from a table; see the class for its columns, and `save` for ``source`` and those of other metrics."""
        check_arguments(NoiseSamples.from_frame, locals(), NoiseError)
        origin = dict(origin or {})
        names = origin.pop("details", None)
        if SOURCE not in frame or frame[SOURCE].isin(("0", "1", 0, 1)).all():
            frame, details = _divided(frame, names)
            return NoiseSamples(frame, origin, details, tensors=tensors or {})
        parts = {str(form): part.drop(columns=SOURCE) for form, part in frame.groupby(SOURCE, sort=False)}
        if "" not in parts:
            message = f"noise samples: all rows have a form of the inputs ({', '.join(parts)}); those with none ('') are missing"
            raise NoiseError(message)
        divided = {form: _divided(part, names) for form, part in parts.items()}
        frame, details = divided.pop("")
        sources = {form: NoiseSamples(part, {**origin, SOURCE: form}, more) for form, (part, more) in divided.items()}
        return NoiseSamples(frame, origin, details, sources=sources, tensors=tensors or {})

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that may be quantized, V_Q."""
        return tuple(c for c in self.frame.columns if c not in OTHER)

    @property
    def schemes(self) -> np.ndarray:
        """int8 (n, layers): 1 where a layer runs in int8."""
        return self.frame[list(self.layers)].to_numpy(np.int8)

    @property
    def complete(self) -> bool:
        """Whether all schemes that quantize something are among them."""
        return bool(self.schemes.any(axis=1).sum() == 2 ** len(self.layers) - 1)

    @property
    def noise(self) -> np.ndarray:
        """Float (n,): measured rho."""
        return self.frame["noise"].to_numpy(float)

    @property
    def spread(self) -> np.ndarray | None:
        """Float (n, 2): standard deviation over the images (NaN of one), and how many they were; None where that is not known."""
        return self.frame[list(SPREAD)].to_numpy(float) if "noise_std" in self.frame else None

    def updated(self, other: NoiseSamples) -> NoiseSamples:
        """Return these samples, those that were measured again (on other images, as a rule more of them) as they are there.

        That is a table to look schemes up in. A regressor is better fitted to samples of one set of images. Forms of inputs and
        of tensors that either knows are kept, and updated where both do.

        Raises
        ------
        NoiseError
            The others are of other layers, of another model, metric or quantization, or one of both tells no spread.
        """
        check_arguments(NoiseSamples.updated, locals(), NoiseError)
        if other.layers != self.layers:
            message = f"the samples are of the layers {self.layers}, those that update them of {other.layers}"
            raise NoiseError(message)
        if (self.spread is None) != (other.spread is None):
            message = "only one of the two tells the spread over images; measure both on two images or more"
            raise NoiseError(message)
        keys = ("model_sha256", "metric", "calibration", SOURCE)
        apart = [k for k in keys if k in self.origin and k in other.origin and self.origin[k] != other.origin[k]]
        mixed = mixed_settings({"samples": self.origin, "ones that update them": other.origin})
        raise_problems(NoiseError, "samples of another noise", [*mixed, *(f"{k} differs" for k in apart)])
        old = ~np.isin(pack_schemes(self.schemes), pack_schemes(other.schemes))
        own = {k: other.origin[k] for k in ("images", "images_sha256") if k in other.origin}
        frame = pd.concat([self.frame[old], other.frame]).sort_values([*self.layers, "noise"], ignore_index=True)
        both = {form: samples.updated(other.sources[form]) for form, samples in self.sources.items() if form in other.sources}
        tensors = {t: {**self.tensors.get(t, {}), **other.tensors.get(t, {})} for t in {**self.tensors, **other.tensors}}
        origin = {**self.origin, "again": {**own, "schemes": len(other.frame)}}
        return NoiseSamples(frame, origin, sources={**self.sources, **other.sources, **both}, tensors=tensors)

    def only(self, rows: np.ndarray | Sequence[int]) -> NoiseSamples:
        """Return some of the samples, given by their positions or by one truth value per sample; forms are kept as they are."""
        check_arguments(NoiseSamples.only, locals(), NoiseError)
        try:
            rows = np.asarray(rows)
            if rows.ndim != 1:
                message = f"they have the shape {rows.shape}"
                raise IndexError(message)
            frame = self.frame.iloc[rows if rows.dtype.kind in "bi" or not rows.size else rows.astype(np.intp, casting="safe")]
        except (IndexError, TypeError, ValueError) as error:
            message = f"rows are no positions or truth values of {len(self.frame)} samples: {error}"
            raise NoiseError(message) from None
        return replace(self, frame=frame, details=None)

    def with_tensors(self, found: Mapping[str, Mapping[str, float]]) -> NoiseSamples:
        """Return the samples with the noise of tensors in lossy forms that `measure_wire_noise` found."""
        check_arguments(NoiseSamples.with_tensors, locals(), NoiseError)
        return replace(self, tensors=found)

    @property
    def alone(self) -> dict[int, int]:
        """The row of the scheme that quantizes one layer alone, by the layer's column, where it was measured."""
        rows = np.flatnonzero(self.schemes.sum(axis=1) == 1)
        return dict(zip(self.schemes[rows].nonzero()[1].tolist(), rows.tolist(), strict=True))

    @property
    def quantizing(self) -> NoiseSamples:
        """The samples that have any layer in int8."""
        return self.only(np.flatnonzero(self.schemes.any(axis=1)))

    def divide(self, count: int, seed: int = 0) -> tuple[NoiseSamples, NoiseSamples]:
        """Return `count` random samples and the others, to fit on the ones and test on the others; both keep all forms."""
        check_arguments(NoiseSamples.divide, locals(), NoiseError, least={"seed": 0}, but=("count",))
        if not is_whole(count, 1) or count >= len(self.frame):
            total = len(self.frame)
            message = f"count is {shortened(count)}; of {total} samples take 1 to {total - 1}, for this leaves none on one side"
            raise NoiseError(message)
        order = np.random.default_rng(seed).permutation(len(self.frame))
        return self.only(np.sort(order[:count])), self.only(np.sort(order[count:]))

    def save(self, path: str | Path, details: Sequence[str] = (), digits: int = 9) -> None:
        """Write a CSV whose first line is a comment with the origin, and the noise of tensors in lossy forms, as JSON.

        Where there are samples of inputs in lossy forms, a column ``source`` names the form: "" for the inputs as they are.

        Parameters
        ----------
        path : str | Path
            Of the CSV.
        details : Sequence[str], optional
            Other metrics to keep, by their name in the details: a column each, and its spread where it is known; empty of inputs
            in lossy forms whose details have it not.
        digits : int, default 9
            How many significant ones are written; fewer make a smaller file.

        Raises
        ------
        NoiseError
            There is no such metric.
        """
        check_arguments(NoiseSamples.save, locals(), NoiseError, least={"digits": 1}, most={"digits": 17})
        known = [] if self.details is None else [str(c) for c in self.details]
        lost = [f"{name!r} is no metric of the details{nearest(name, known)}" for name in details if name not in known]
        columns = {c: c.replace(" std", "_std") for name in dict.fromkeys(details) for c in (name, f"{name} std") if c in known}
        lost += [f"{name!r} is a column of the samples, too" for name in columns.values() if name in (*self.frame, SOURCE)]
        raise_problems(NoiseError, "metrics to save", lost)
        more = {"tensors": self.tensors} if self.tensors else {}
        origin = json.dumps({**self.origin, **more, **({"details": [*dict.fromkeys(details)]} if details else {})}, default=plain)
        parts = {"": self, **self.sources}
        told = {
            form: (pd.DataFrame() if one.details is None else one.details).reset_index(drop=True) for form, one in parts.items()
        }
        frames = {
            form: one.frame.assign(**{column: told[form].get(name, np.nan) for name, column in columns.items()})
            for form, one in parts.items()
        }
        frame = pd.concat([part.assign(**{SOURCE: form}) for form, part in frames.items()]) if self.sources else frames[""]
        write_text(path, f"# {origin}\n" + frame.to_csv(index=False, float_format=f"%.{digits}g"))

    @staticmethod
    def load(path: str | Path) -> NoiseSamples:
        """Read the CSV that `save` writes, or any CSV with the columns of `frame`."""
        check_arguments(NoiseSamples.load, locals(), NoiseError)
        kind = Kind("is not readable as a table of noise samples", NoiseError, MOST_BYTES, "the table")
        origin, frame = header_of(path, kind), read_table(path, kind=kind)
        tensors = origin.pop("tensors", {})
        if not isinstance(tensors, dict) or not all(isinstance(forms, dict) for forms in tensors.values()):
            message = f"{path}: the noise of tensors in its first line is {shortened(tensors)}, not numbers by tensor and form"
            raise NoiseError(message)
        return NoiseSamples.from_frame(frame, origin, tensors)

    def __repr__(self) -> str:
        low, high = self.noise.min(), self.noise.max()
        notes = f"; inputs also as {', '.join(self.sources)}" if self.sources else ""
        notes += "".join(f"; {note}" for note in self.origin.get("notes", ()))
        size = f"{len(self.frame)} scheme{'s' * (len(self.frame) != 1)} of {len(self.layers)} layers"
        return folded(f"NoiseSamples({size}, noise {low:.4g} to {high:.4g}{notes})")

    def _repr_html_(self) -> str:
        return shown(self, self.frame.head(8))


def _divided(frame: pd.DataFrame, names: object) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Divide a table into the samples and, by their names, other metrics, whose spread is called ``NAME_std`` there."""
    if names is None:
        return frame, None
    if not isinstance(names, list) or not names or not all(isinstance(c, str) and c in frame and c not in OTHER for c in names):
        message = f"noise samples: the other metrics are said to be {shortened(names)}; they must be columns of the table"
        raise NoiseError(message)
    columns = {
        column: called for name in names for column, called in ((name, name), (f"{name}_std", f"{name} std")) if column in frame
    }
    details = frame[[*columns]].apply(pd.to_numeric, errors="coerce").astype(float).reset_index(drop=True)
    return frame.drop(columns=[*columns]), None if details[names].isna().all(axis=None) else details.rename(columns=columns)
