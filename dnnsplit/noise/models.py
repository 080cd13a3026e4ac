"""Models eta(q) of the quantization noise: what was measured, or what predicts the noise of any scheme."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NoiseError, nearest, raise_problems
from dnnsplit.ground.markup import folded, shown
from dnnsplit.noise.confidence import bound_factor, shared_spread, upper_bound
from dnnsplit.noise.samples import SOURCE, NoiseSamples
from dnnsplit.noise.schemes import all_schemes, check_rows, check_schemes, pack_schemes, row_of

if TYPE_CHECKING:
    from dnnsplit.quantize.calibration import Calibration

MOST_LISTED = 18  # layers of which all schemes are ever listed
# What is quantized has some noise, though a polynomial dips below 0: nothing in int8 keeps a limit of 0, unless it was measured.
LEAST = float(np.finfo(float).tiny)
SIGMAS = 2.5  # standard deviations of eta^2 by which a Gaussian process is read below its mean, see `dnnsplit.noise.verification`
MARGIN = 0.05  # share by which another model is read below its prediction there
LENT = "polynomial_of"  # in the origin of a model that is another network's, whose name it is
Kind = TypeVar("Kind", bound="NoiseModel")


@dataclass(frozen=True, eq=False, repr=False)
class NoiseModel(ABC):
    """eta(q): the noise of a scheme, 0 exactly where no layer is quantized, unless inputs arrive in a lossy form.

    It is a `Table` of what was measured, a `Polynomial`, a `dnnsplit.noise.gaussian.GaussianProcess`, one of these with the
    noise of a lossy form added (`PowerSum`), or told measurements (`dnnsplit.noise.verification.Informed`).

    Attributes
    ----------
    layers : tuple[str, ...]
        V_Q, in the order of the columns that `predict` expects.
    floor : float
        Noise where no layer is quantized: 0 but for inputs in a lossy form.
    share : tuple[float, int] | None
        Of predicted noise, its standard deviation over images as a share of it, on average over the samples, and how many images
        they were; None where it is not known.
    mean : NoiseModel | None
        For upper bounds (see `bounded`), the model of what they bound.
    sources : Mapping[str, NoiseModel]
        eta(q) where the graph inputs arrive in a lossy form, by its name: models over the same layers, whose `floor` is not 0.
    tensors : Mapping[str, Mapping[str, float]]
        Noise of one tensor between layers alone in a lossy form, by tensor and form; measured.
    scores : Mapping[str, float]
        How well it was found to predict (`fit_noise` fills them by cross-validation).
    origin : Mapping[str, Any]
        What the samples behind it depend on.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> noise = ds.NoiseModel.polynomial(("conv1", "conv2"), {"conv1": 0.01, "conv2": 0.03}, intercept=0.002)
    >>> noise
    NoiseModel(polynomial over 2 layers, 2 terms)
    >>> noise.of(["conv1"])
    0.012
    """

    layers: tuple[str, ...]
    _: KW_ONLY
    floor: float = 0.0
    share: tuple[float, int] | None = None
    mean: NoiseModel | None = None
    sources: Mapping[str, NoiseModel] = field(default_factory=dict)
    tensors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def polynomial(
        layers: Sequence[str], terms: Mapping[Sequence[str] | str, float], intercept: float = 0.0,
        origin: Mapping[str, Any] | None = None, power: float = 1.0,
    ) -> Polynomial:  # fmt: skip
        """Return eta(q)^power = intercept * [any q_i = 1] + sum over terms of coefficient * product of its q_i.

        Parameters
        ----------
        layers : Sequence[str]
            V_Q.
        terms : Mapping[Sequence[str] | str, float]
            Coefficient by layer name or tuple of layer names.
        intercept : float, default 0.0
            Counts once any layer is quantized.
        origin : Mapping[str, Any] | None, optional
            What the samples behind it depend on.
        power : float, default 1.0
            Above 0; what is not 1 makes it a "link".

        Raises
        ------
        NoiseError
            A term names a layer that is not in `layers`, a coefficient is not finite, a power that is not above 0.

        Examples
        --------
        >>> eta = NoiseModel.polynomial(("a", "b"), {("a",): 0.1, ("b",): 0.2, ("a", "b"): -0.05}, intercept=0.01)
        >>> eta.predict([[0, 0], [1, 0], [1, 1]]).round(3).tolist()
        [0.0, 0.11, 0.26]
        """
        check_arguments(NoiseModel.polynomial, locals(), NoiseError, above={"power": 0}, finite=("intercept", "power"))
        layers = tuple(layers)
        clean: dict[tuple[str, ...], float] = {}
        problems = [f"layer {n!r} is named twice" for n in {n for n in layers if layers.count(n) > 1}]
        for key, value in terms.items():
            names = (key,) if isinstance(key, str) else tuple(key)
            problems += [f"term {names}: {n!r} is not a quantizable layer{nearest(n, layers)}" for n in names if n not in layers]
            if not names:
                problems.append("the empty term is the intercept; give it as intercept=")
            if not np.isfinite(value):
                problems.append(f"term {names}: coefficient {value!r} is not a finite number")
            names = tuple(sorted(set(names), key=lambda n: layers.index(n) if n in layers else -1))
            clean[names] = clean.get(names, 0.0) + float(value)
        raise_problems(NoiseError, "noise polynomial", problems)
        return Polynomial(layers, clean, float(intercept), float(power), origin=origin or {})

    @staticmethod
    def measured(samples: NoiseSamples) -> Table:
        """Return the model that answers with the measured noise and refuses schemes that were not measured.

        Lossy forms of inputs that were measured with all of these schemes are tables too, the others are a `PowerSum`.
        """
        check_arguments(NoiseModel.measured, locals(), NoiseError)
        table = _table(samples)
        if table.floor != 0.0 and SOURCE not in samples.origin:
            message = f"the scheme that quantizes nothing has the noise {table.floor}; it must be 0"
            raise NoiseError(message)
        return with_forms(table, samples)

    @property
    @abstractmethod
    def kind(self) -> str:
        """What it is called in print."""

    @abstractmethod
    def _noise(self, q: np.ndarray) -> np.ndarray:
        """Return the noise of schemes, bool (n, layers); infinite where it is not known, anything where nothing is quantized."""

    def _bounded(self, confidence: float) -> NoiseModel:
        """Return the model of the bounds, all but its mean and the noise of forms; NoiseError where no spread is known."""
        message = (
            f"the noise has no spread over images, which confidence={confidence!r} needs: measure it on two images or more "
            "(measure_noise keeps their spread), or take confidence=None, the plain mean"
        )
        raise NoiseError(message)

    def at(self, form: str) -> NoiseModel:
        """Return the model where the graph inputs arrive in a form: this one where it is lossless, not among `sources`."""
        check_arguments(NoiseModel.at, locals(), NoiseError)
        return self.sources.get(form, self)

    def _listed(self, q: np.ndarray) -> np.ndarray:
        return np.where(q.any(axis=1), self._noise(q), self.floor)

    def predict(self, schemes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Return the noise of each scheme.

        Parameters
        ----------
        schemes : np.ndarray | Sequence[Sequence[int]]
            0/1 (n, layers), columns in the order of `layers`.

        Returns
        -------
        float (n,)
            `floor` exactly for the scheme that quantizes nothing; above 0 for every other, unless it was measured.

        Raises
        ------
        NoiseError
            Wrong number of columns, entries other than 0 and 1, or (for a table) a scheme not measured.
        """
        check_arguments(NoiseModel.predict, locals(), NoiseError)
        return self._listed(check_schemes(schemes, len(self.layers)))

    def predict_std(self, schemes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Return how uncertain the noise of each scheme is: one standard deviation, float (n,).

        It is 0 for measured schemes and where nothing is quantized; a polynomial cannot tell.
        """
        check_arguments(NoiseModel.predict_std, locals(), NoiseError)
        message = f"a {self.kind} tells no uncertainty; fit a Gaussian process (model='gp')"
        raise NoiseError(message)

    def every(self) -> np.ndarray:
        """Return the noise of all 2^n schemes, float (2^n,), first layer lowest; infinite where a table has no measurement.

        Raises
        ------
        NoiseError
            More than 18 layers.
        """
        if len(self.layers) > MOST_LISTED:
            message = (
                f"this model ({self.kind}) needs all schemes listed, and those of {len(self.layers)} layers are too many (at "
                f"most {MOST_LISTED} layers); quantize fewer, or fit model='polynomial', whose limit is made of linear rows"
            )
            raise NoiseError(message)
        return self._listed(all_schemes(len(self.layers)).astype(bool))

    def of(self, quantized: Sequence[str], source: str = "") -> float:
        """Return the noise when exactly these layers are quantized, and the inputs come in this form (see `at`)."""
        check_arguments(NoiseModel.of, locals(), NoiseError)
        return float(self.at(source).predict(row_of(self.layers, quantized))[0])

    def bounded(self, confidence: float) -> NoiseModel:
        """Return the model of the upper confidence bounds of the means that this one tells; its ``mean`` is this one.

        What is predicted has the relative spread that the samples behind it have on average, and so have `tensors`, of which the
        spread is not kept; what was measured on one image has no bound, and is left out. `sources` are bounded each. The bound is
        about images alone, not about how well a fit predicts: see `dnnsplit.noise.verification`.

        Raises
        ------
        NoiseError
            The spread over images is not known.
        OptionError
            No confidence.
        """
        check_arguments(NoiseModel.bounded, locals(), NoiseError)
        sources = {form: model.bounded(confidence) for form, model in self.sources.items()}
        tensors: Mapping[str, Mapping[str, float]] = {}
        if self.share:
            by = bound_factor(self.share, confidence)
            tensors = {name: {form: by * noise for form, noise in forms.items()} for name, forms in self.tensors.items()}
        return replace(self._bounded(confidence), mean=self, sources=sources, tensors=tensors)

    def calibrated(self: Kind, calibration: Calibration) -> Kind:
        """Return the model with the ranges by which its layers are to be quantized, so that its plans can be cut.

        For noise that was not measured here, such as that of a polynomial that was given; it stays a prediction.

        Raises
        ------
        NoiseError
            It was measured, and so has the ranges that it was measured with.
        """
        check_arguments(NoiseModel.calibrated, locals(), NoiseError)
        if "calibration" in self.origin:
            message = "this noise was measured with ranges of its own; measure it anew with others (measure_noise)"
            raise NoiseError(message)
        told = calibration.to_json()
        own = {key: told[key] for key in ("model_sha256", "setting")}
        return replace(self, origin={**self.origin, **own, "calibration": told})

    def is_measured(self, quantized: Sequence[str]) -> bool:
        """Whether the noise of a scheme is not predicted."""
        check_arguments(NoiseModel.is_measured, locals(), NoiseError)
        return not quantized and not self.floor

    def certain(self) -> dict[int, float]:
        """Return the noise of the schemes that need no measurement, by their numbers."""
        return {0: self.floor}

    def optimistic(self, q: np.ndarray) -> np.ndarray:
        """Return a noise of schemes, bool (n, layers), that is low for this model, float (n,)."""
        check_arguments(NoiseModel.optimistic, locals(), NoiseError)
        check_rows(q, len(self.layers))
        return self._listed(q) / (1 + MARGIN)

    def learn(self, schemes: np.ndarray, noise: np.ndarray) -> NoiseModel:
        """Return the model that has seen more samples, 0/1 (n, layers) and float (n,); most kinds learn nothing from them."""
        check_arguments(NoiseModel.learn, locals(), NoiseError)
        return self

    @property
    def _size(self) -> str:
        return f", that of {self.origin[LENT]!r}: predicted, not measured here" if LENT in self.origin else ""

    def __repr__(self) -> str:
        scores = "".join(f", {name} {value:.4g}" for name, value in self.scores.items() if name in ("degree", "power", "R2"))
        return folded(f"NoiseModel({self.kind} over {len(self.layers)} layers{self._size}{scores})")

    def _repr_html_(self) -> str:
        scores = {name: f"{value:.4g}" for name, value in self.scores.items()}
        return shown(self, {"layers": ", ".join(self.layers), **scores})


@dataclass(frozen=True, eq=False, repr=False)
class Table(NoiseModel):
    """Schemes that were measured, and nothing else.

    Attributes
    ----------
    table : Mapping[int, float]
        Noise by the number of the scheme (see `dnnsplit.noise.schemes`), that of no layer among them.
    spread : Mapping[int, tuple[float, int]]
        The standard deviation over images and their number, by scheme, where it is known.
    """

    table: Mapping[int, float]
    spread: Mapping[int, tuple[float, int]] = field(default_factory=dict)

    kind = "table"

    def __post_init__(self) -> None:
        object.__setattr__(self, "floor", self.table.get(0, math.inf))

    def _noise(self, q: np.ndarray) -> np.ndarray:
        return np.array([self.table.get(key, np.inf) for key in pack_schemes(q).tolist()], float)

    def predict(self, schemes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Return the measured noise of each scheme, see `NoiseModel.predict`."""
        noise = super().predict(schemes)
        if missing := np.isinf(noise).sum():
            message = f"{missing} of {len(noise)} schemes were not measured; measure all, or fit a model (fit_noise)"
            raise NoiseError(message)
        return noise

    def predict_std(self, schemes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Return 0 for each scheme: it was measured."""
        return 0.0 * self.predict(schemes)

    def _bounded(self, confidence: float) -> Table:
        if not self.spread and (any(self.table) or self.floor):
            super()._bounded(confidence)  # which refuses
        keys = [key for key in self.table if key in self.spread]
        std, images = np.array([self.spread[key] for key in keys]).reshape(-1, 2).T
        bounds = upper_bound(np.array([self.table[key] for key in keys]), std, images, confidence)
        return replace(self, table=({} if self.floor else {0: 0.0}) | dict(zip(keys, bounds.tolist(), strict=True)))

    def is_measured(self, quantized: Sequence[str]) -> bool:
        """Whether the noise of this scheme was measured."""
        check_arguments(NoiseModel.is_measured, locals(), NoiseError)
        return int(pack_schemes(row_of(self.layers, quantized))[0]) in self.table

    def certain(self) -> dict[int, float]:
        """Return all of the table."""
        return dict(self.table)

    @property
    def _size(self) -> str:
        return f", {len(self.table)} measured schemes"


@dataclass(frozen=True, eq=False, repr=False)
class Polynomial(NoiseModel):
    """eta(q)^power = intercept * [any q_i = 1] + sum over terms of coefficient * product of its q_i.

    Attributes
    ----------
    terms : Mapping[tuple[str, ...], float]
        Coefficient of each product of layers.
    intercept : float
        Added once any layer is quantized.
    power : float
        What is not 1 makes it a "link".
    """

    terms: Mapping[tuple[str, ...], float]
    intercept: float = 0.0
    power: float = 1.0

    @property
    def kind(self) -> str:
        """What it is called in print."""
        return "polynomial" if self.power == 1 else "link"

    def _noise(self, q: np.ndarray) -> np.ndarray:
        index = {name: i for i, name in enumerate(self.layers)}
        eta = np.where(q.any(axis=1), self.intercept, 0.0)
        for names, coefficient in self.terms.items():
            eta += coefficient * q[:, [index[n] for n in names]].all(axis=1)
        return np.maximum(eta, LEAST) ** (1 / self.power)

    def _bounded(self, confidence: float) -> NoiseModel:
        if self.share is None:
            return super()._bounded(confidence)
        by = bound_factor(self.share, confidence) ** self.power
        terms = {names: by * value for names, value in self.terms.items()}
        return replace(self, terms=terms, intercept=by * self.intercept)

    @property
    def _size(self) -> str:
        return (f", {len(self.terms)} terms" if self.terms else "") + super()._size


@dataclass(frozen=True, eq=False, repr=False)
class PowerSum(NoiseModel):
    """eta(q | form)^2 = eta(q)^2 + floor^2: what is predicted where inputs come in a lossy form that was measured alone.

    Attributes
    ----------
    base : NoiseModel
        eta(q), of inputs as they are.
    spread : tuple[float, int] | None
        Of the `floor`, the standard deviation over images and their number, where it is known.
    known : Table | None
        Schemes that were measured in this form: they are as measured.
    """

    base: NoiseModel
    spread: tuple[float, int] | None = None
    known: Table | None = None

    kind = "power sum"

    def _noise(self, q: np.ndarray) -> np.ndarray:
        return self._measured(q, np.hypot(self.base._listed(q), self.floor))

    def _measured(self, q: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return the noise of schemes, as measured where it was."""
        found = self.known._noise(q) if self.known else np.full(len(q), np.inf)
        return np.where(np.isfinite(found), found, noise)

    def predict(self, schemes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Return the noise of each scheme, see `NoiseModel.predict`."""
        q = check_schemes(schemes, len(self.layers))
        return self._measured(q, np.hypot(self.base.predict(q), self.floor))

    def is_measured(self, quantized: Sequence[str]) -> bool:
        """Whether the noise of this scheme was measured in this form."""
        return self.known is not None and self.known.is_measured(quantized)

    def predict_std(self, schemes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Return how much the uncertainty of the base adds, see `NoiseModel.predict_std`."""
        most = self.base.predict(schemes) + self.base.predict_std(schemes)
        return np.asarray(np.hypot(most, self.floor) - self.predict(schemes))

    def _bounded(self, confidence: float) -> NoiseModel:
        if self.spread is None:
            return super()._bounded(confidence)
        floor, known = float(upper_bound(self.floor, *self.spread, confidence)), self.known
        return replace(self, base=self.base.bounded(confidence), floor=floor, known=known and known._bounded(confidence))

    def certain(self) -> dict[int, float]:
        """Return what was measured in this form."""
        return {0: self.floor} | (self.known.certain() if self.known else {})

    def optimistic(self, q: np.ndarray) -> np.ndarray:
        """Return the sum of the base on its optimistic side and a floor as much lower as other models are read."""
        return self._measured(q, np.hypot(self.base.optimistic(q), self.floor / (1 + MARGIN)))

    def learn(self, schemes: np.ndarray, noise: np.ndarray) -> NoiseModel:
        """Return the sum whose base has learned what the measured noise is above the floor."""
        rest = np.sqrt(np.maximum(np.square(noise) - self.floor**2, 0.0))
        return replace(self, base=self.base.learn(schemes, rest))


def _table(samples: NoiseSamples) -> Table:
    keys = pack_schemes(samples.schemes).tolist()
    table = dict(zip(keys, samples.noise.tolist(), strict=True))
    pairs = [] if samples.spread is None else zip(keys, samples.spread.tolist(), strict=True)
    spread = {key: (std, int(images)) for key, (std, images) in pairs if images > 1}
    nothing = {} if SOURCE in samples.origin else {0: 0.0}
    return Table(samples.layers, nothing | table, spread, share=shared_spread(samples), origin=samples.origin)


def with_forms(model: Kind, samples: NoiseSamples) -> Kind:
    """Return a model that knows the noise of lossy forms too, those of inputs and those of tensors between layers."""
    return replace(model, sources={form: _of_form(model, one) for form, one in samples.sources.items()}, tensors=samples.tensors)


def _of_form(model: NoiseModel, one: NoiseSamples) -> NoiseModel:
    table = _table(one)
    if isinstance(model, Table) and {*model.table} <= {*table.table}:
        return table
    std, known = table.spread.get(0), table if len(table.table) > 1 else None
    return PowerSum(model.layers, model, std, known, floor=table.floor, share=model.share, scores=model.scores, origin=one.origin)
