"""Models eta(q) of the quantization noise: what was measured, or what predicts the noise of any scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

import numpy as np

from dnnsplit.ground.errors import NoiseError, nearest, raise_problems
from dnnsplit.ground.markup import shown
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.noise.schemes import all_schemes, pack_schemes

MOST_LISTED = 18  # layers of which all schemes are ever listed
LEAST = float(np.finfo(float).tiny)  # of what is predicted for a scheme that quantizes anything


class Predictor(Protocol):
    """A regressor of any kind: the noise of 0/1 rows (n, layers), or a bound that many standard deviations above it."""

    def predict(self, schemes: np.ndarray, sigmas: float = 0.0) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """eta(q): the noise of a scheme, 0 exactly where no layer is quantized.

    Attributes
    ----------
    layers : V_Q, in the order of the columns that `predict` expects
    kind : "polynomial" (eta is one), "link" (eta^power is one), "gp" (a Gaussian process), "informed" (one of
        these that was told measurements, see `verify`), or "table": schemes that were measured, and nothing else
    terms : for a polynomial or a link, coefficient of each product of layers
    intercept : for a polynomial, added once any layer is quantized
    power : for a link, p of eta^p
    predictor : for a Gaussian process, or an informed model
    table : for measured schemes, noise by scheme (bits packed as an integer, first layer lowest)
    spread : for measured schemes, the standard deviation over images and their number, by scheme; empty where it is not known
    share : for predicted noise, the same as a share of it, on average over the samples; None where it is not known
    mean : for upper bounds (see `dnnsplit.noise.confidence`), the model of what they bound
    scores : how well it was found to predict (`fit_noise` fills them by cross-validation)
    origin : what the samples behind it depend on
    """

    layers: tuple[str, ...]
    kind: str
    terms: Mapping[tuple[str, ...], float] = field(default_factory=dict, repr=False)
    intercept: float = 0.0
    power: float = 1.0
    predictor: Predictor | None = field(default=None, repr=False)
    table: Mapping[int, float] = field(default_factory=dict, repr=False)
    spread: Mapping[int, tuple[float, int]] = field(default_factory=dict, repr=False)
    share: tuple[float, int] | None = field(default=None, repr=False)
    mean: NoiseModel | None = field(default=None, repr=False)
    scores: Mapping[str, float] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def polynomial(
        layers: Sequence[str],
        terms: Mapping[Sequence[str] | str, float],
        intercept: float = 0.0,
        origin: Mapping[str, Any] | None = None,
        power: float = 1.0,
    ) -> NoiseModel:
        """Return eta(q)^power = intercept * [any q_i = 1] + sum over terms of coefficient * product of its q_i.

        Parameters
        ----------
        layers : V_Q
        terms : coefficient by layer name or tuple of layer names
        intercept : counts once any layer is quantized
        origin : what the samples behind it depend on
        power : above 0; the kind is "link" where it is not 1

        Raises
        ------
        NoiseError : a term names a layer that is not in `layers`, a coefficient is not finite, a power that is not above 0

        Examples
        --------
        >>> eta = NoiseModel.polynomial(("a", "b"), {("a",): 0.1, ("b",): 0.2, ("a", "b"): -0.05}, intercept=0.01)
        >>> eta.predict([[0, 0], [1, 0], [1, 1]]).round(3).tolist()
        [0.0, 0.11, 0.26]
        """
        layers = tuple(layers)
        clean: dict[tuple[str, ...], float] = {}
        problems = [f"layer {n!r} is named twice" for n in {n for n in layers if layers.count(n) > 1}]
        for key, value in terms.items():
            names = (key,) if isinstance(key, str) else tuple(key)
            problems += [f"term {names}: {n!r} is not a quantizable layer{nearest(n, layers)}" for n in names if n not in layers]
            if not names:
                problems.append("the empty term is the intercept; give it as intercept=")
            if not isinstance(value, Real) or not np.isfinite(value):
                problems.append(f"term {names}: coefficient {value!r} is not a finite number")
                value = 0.0
            names = tuple(sorted(set(names), key=lambda n: layers.index(n) if n in layers else -1))
            clean[names] = clean.get(names, 0.0) + float(value)
        if not isinstance(intercept, Real) or not np.isfinite(intercept):
            problems.append(f"intercept {intercept!r} is not a finite number")
        if not isinstance(power, Real) or not 0 < power < np.inf:
            problems.append(f"power {power!r} is not a number above 0")
        raise_problems(NoiseError, "noise polynomial", problems)
        kind = "polynomial" if power == 1 else "link"
        return NoiseModel(layers, kind, clean, float(intercept), float(power), origin=origin or {})

    @staticmethod
    def measured(samples: NoiseSamples) -> NoiseModel:
        """Return the model that answers with the measured noise and refuses schemes that were not measured."""
        keys = pack_schemes(samples.schemes).tolist()
        table = dict(zip(keys, samples.noise.tolist(), strict=True))
        if table.get(0, 0.0) != 0.0:
            raise NoiseError(f"the scheme that quantizes nothing has the noise {table[0]}; it must be 0")
        pairs = zip(keys, [] if samples.spread is None else samples.spread, strict=False)
        spread = {k: (std, int(n)) for k, (std, n) in pairs if n > 1}
        return NoiseModel(samples.layers, "table", table={0: 0.0} | table, spread=spread, origin=samples.origin)

    def predict(self, schemes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Return the noise of each scheme.

        Parameters
        ----------
        schemes : 0/1 (n, layers), columns in the order of `layers`

        Returns
        -------
        float (n,) : 0 exactly for the scheme that quantizes nothing; above 0 for every other, unless it was measured

        Raises
        ------
        NoiseError : wrong number of columns, entries other than 0 and 1, or (for a table) a scheme not measured
        """
        q = self._checked(schemes)
        if self.kind == "table":
            keys = pack_schemes(q)
            missing = [k for k in keys.tolist() if k not in self.table]
            if missing:
                raise NoiseError(f"{len(missing)} of {len(q)} schemes were not measured; measure all, or fit a model (fit_noise)")
            return np.array([self.table[k] for k in keys.tolist()], float)
        # What is quantized has some noise, whatever a fit says (a polynomial can dip below 0), so that nothing in int8 keeps a
        # limit of 0; measurements may know better.
        least = 0.0 if self.kind == "informed" else LEAST
        if self.predictor is not None:
            return np.where(q.any(axis=1), np.maximum(self.predictor.predict(q), least), 0.0)
        index = {name: i for i, name in enumerate(self.layers)}
        eta = np.where(q.any(axis=1), self.intercept, 0.0)
        for names, coefficient in self.terms.items():
            eta += coefficient * q[:, [index[n] for n in names]].all(axis=1)
        return np.where(q.any(axis=1), np.maximum(eta, least), 0.0) ** (1 / self.power)

    def predict_std(self, schemes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Return how uncertain the noise of each scheme is: one standard deviation, float (n,).

        It is 0 for measured schemes and where nothing is quantized; a polynomial cannot tell.
        """
        q = self._checked(schemes)
        if self.kind == "table":
            return 0.0 * self.predict(q)
        if self.predictor is None:
            raise NoiseError(f"a {self.kind} tells no uncertainty; fit a Gaussian process (model='gp')")
        return np.where(q.any(axis=1), self.predictor.predict(q, 1.0) - self.predictor.predict(q), 0.0)

    def _checked(self, schemes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        try:
            q = np.atleast_2d(np.asarray(schemes))
        except ValueError:
            raise NoiseError("the schemes have different numbers of entries; each needs one per layer") from None
        if q.ndim > 2:
            raise NoiseError(f"schemes have the shape {q.shape}; give one row per scheme")
        if q.shape[1] != len(self.layers):
            raise NoiseError(f"a scheme has {q.shape[1]} entries; this noise model has {len(self.layers)} layers")
        if not np.isin(q, (0, 1)).all():
            raise NoiseError("a scheme holds entries other than 0 and 1")
        return q.astype(bool)

    def every(self) -> np.ndarray:
        """Return the noise of all 2^n schemes, float (2^n,), first layer lowest; infinite where a table has no measurement.

        Raises
        ------
        NoiseError : more than 18 layers
        """
        if len(self.layers) > MOST_LISTED:
            raise NoiseError(
                f"this model ({self.kind}) needs all schemes listed, and those of {len(self.layers)} layers are too many (at "
                f"most {MOST_LISTED} layers); quantize fewer, or fit model='polynomial', whose limit is made of linear rows"
            )
        if self.kind == "table":
            return np.array([self.table.get(k, np.inf) for k in range(2 ** len(self.layers))])
        return self.predict(all_schemes(len(self.layers)))

    def of(self, quantized: Sequence[str]) -> float:
        """Return the noise when exactly these layers are quantized."""
        unknown = [name for name in quantized if name not in self.layers]
        if unknown:
            raise NoiseError(f"{unknown[0]!r} is not a quantizable layer of this noise model{nearest(unknown[0], self.layers)}")
        return float(self.predict([[int(name in quantized) for name in self.layers]])[0])

    def __repr__(self) -> str:
        size = f", {len(self.terms)} terms" if self.terms else f", {len(self.table)} measured schemes" if self.table else ""
        scores = "".join(f", {name} {value:.4g}" for name, value in self.scores.items() if name in ("degree", "power", "R2"))
        return f"NoiseModel({self.kind} over {len(self.layers)} layers{size}{scores})"

    def _repr_html_(self) -> str:
        scores = {name: f"{value:.4g}" for name, value in self.scores.items()}
        return shown(self, {"layers": ", ".join(self.layers), **scores})
