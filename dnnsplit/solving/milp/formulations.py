"""Two mixed-integer programmes of the placement problem, as plain variables and rows that any solver interface can take.

`Slides` is the slides' formulation to the letter. `Tight` has the same optima and a much stronger relaxation: the servers
of a tensor's producer and of each of its receivers are coupled by a flow whose marginals they are (the local marginal
polytope of Schlesinger, 1976), so that only x and q have to be integer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dnnsplit.graph.shared_weights import groups, own_bytes
from dnnsplit.ground.tolerance import loosened, within
from dnnsplit.noise.models import LEAST, NoiseModel, Polynomial, Table
from dnnsplit.noise.schemes import cuts
from dnnsplit.solving.arrays import Problem, Weights, latency_weights
from dnnsplit.solving.costs import INT8_SHARE
from dnnsplit.solving.milp.rows import Key, Row, Term, holds, row, scaled
from dnnsplit.solving.objective import Limits

HALF = 0.5  # of the tolerance of limits; the other half is for the solvers' own


class Slides:
    """x_ik, q_i, y_tn and the products x^q, y^q, all binary; one method per family of the slides' equations.

    Parameters
    ----------
    problem : Problem
        Without a choice of source forms, see `Problem.under`.
    sums : Sequence[Weights] | None, default ()
        The objective, and what limits are on: forms that are the best for none of them need no variable. None stands for the
        slowest stage, for which each part of a transfer counts.

    Attributes
    ----------
    variables : dict[Key, bool]
        Integer or not, by key: ("x", i, k), ("q", i), ("y", t, k, h), ("xq", i, k), ("yq", t, k, h), and others. Where no form of
        a tensor is the best by all sums that count, ("form", t, k, h, precision, n) for another one than the best by the first.
    integers : tuple[str, ...] | None
        The kinds that are integer; None means all.
    """

    integers: tuple[str, ...] | None = None

    def __init__(self, problem: Problem, sums: Sequence[Weights] | None = ()) -> None:
        self.problem = problem
        self.base, others = _alternatives(problem, sums)
        self.servers = range(len(problem.network.servers))
        self.pairs = list(itertools.product(self.servers, self.servers))
        self.variables: dict[Key, bool] = {}
        for i, k in np.argwhere(problem.allowed).tolist():
            self._variable("x", i, k)
        for i in problem.quantizable:
            self._variable("q", i)
            for k in np.flatnonzero(problem.allowed[i]).tolist():
                self._variable("xq", i, k)
        for t, receivers in enumerate(problem.receivers):
            for k, h in self.pairs if receivers else ():
                if self._sent(t, k, h):
                    self._variable("y", t, k, h)
                    if problem.producer[t] in problem.quantizable:
                        self._variable("yq", t, k, h)
        for t, k, h, precision, n in others:
            if ("yq" if precision else "y", t, k, h) in self.variables:
                self.variables["form", t, k, h, precision, n] = True

    def _priced(self, t: int, k: int, h: int) -> bool:
        return math.isfinite(self.problem.transfer_s[t, k, h, 0])

    def _takes_time(self, t: int, k: int, h: int) -> bool:
        """Whether it takes any time, in some form, that a tensor goes from one server to another, or moves inside of one."""
        forms, there = self.problem.forms, np.isfinite(self.problem.forms.link_s[t, k, h])
        return any(bool((each[t, k, h][there] > 0).any()) for each in (forms.link_s, forms.encode_s, forms.decode_s))

    def _sent(self, t: int, k: int, h: int) -> bool:
        """Whether y_tn is a variable."""
        return self._priced(t, k, h)

    def _variable(self, kind: str, *index: int) -> Key:
        key: Key = (kind, *index)
        self.variables[key] = self.integers is None or kind in self.integers
        return key

    def keys(self, kind: str) -> list[Key]:
        """Return the variables of one kind."""
        return [key for key in self.variables if key[0] == kind]

    def at(self, i: int, k: int) -> Key | float:
        """x_ik; layer -1 stands for the source, where inputs start and outputs end."""
        if i < 0:
            return float(k == self.problem.source)
        return ("x", i, k) if ("x", i, k) in self.variables else 0.0

    def total(self, weights: Weights) -> list[tuple[Key, float]]:
        """T, E, E_0 or a mix: sum_ik w_k (f x + (f' - f) x^q) + sum_tn w_n (g y + (g' - g) y^q), and bytes sent alike."""
        terms: list[tuple[Key, float]] = []
        forms = self.problem.forms.worth(weights)
        base = np.take_along_axis(forms, self.base[..., None], axis=-1)[..., 0]
        worth = {"x": self.problem.layer_s * weights.compute[:, None], "y": base}
        for kind, every in worth.items():
            for key in self.keys(kind):
                float32, int8 = every[key[1:]].tolist()
                terms.append((key, float32))
                if (f"{kind}q", *key[1:]) in self.variables:
                    terms.append(((f"{kind}q", *key[1:]), int8 - float32))
        terms += [(key, float(forms[key[1:]] - base[key[1:-1]])) for key in self.keys("form")]
        return terms

    def forms(self) -> Iterable[Row]:
        """At most one form takes the place of the best one: of what is int8 where y^q, of what is float32 where y - y^q."""
        of: dict[Key, list[Key]] = {}
        for key in self.keys("form"):
            of.setdefault(key[1:-1], []).append(key)
        for (t, k, h, precision), keys in of.items():
            y, int8 = ("y", t, k, h), ("yq", t, k, h)
            sent = [(int8, -1.0)] if precision else [(y, -1.0), *([(int8, 1.0)] if int8 in self.variables else [])]
            yield row(f"form_{t}_{k}_{h}_{precision}", [*((key, 1.0) for key in keys), *sent], "<=")

    def choice(self, values: Mapping[Key, float]) -> np.ndarray:
        """Return the form of each tensor on each link by what variables came out as, as `Problem.chosen` takes it."""
        found = self.base.copy()
        for key in self.keys("form"):
            if values[key] > 0.5:
                found[key[1:-1]] = key[-1]
        return found

    def assignment(self) -> Iterable[Row]:
        """sum_k x_ik = 1."""
        for i in range(len(self.problem.graph.layers)):
            yield row(f"assignment_{i}", [(self.at(i, k), 1.0) for k in self.servers], "==", 1.0)

    def coherence(self) -> Iterable[Row]:
        """y_tn >= x_ik + (1 / |V_t|) sum_j x_jh - 1, y_tn <= x_ik, y_tn <= sum_j x_jh; without a link, x_ik + x_jh <= 1.

        V_t are the receivers of tensor t. As y is an integer, it is 1 as soon as one of them is on h.
        """
        for t, (p, receivers) in enumerate(zip(self.problem.producer, self.problem.receivers, strict=True)):
            for k, h in self.pairs if receivers else ():
                there = [self.at(j, h) for j in receivers]
                if not self._priced(t, k, h):
                    for n, x in enumerate(there):
                        yield row(f"apart_{t}_{k}_{h}_{n}", [(self.at(p, k), 1.0), (x, 1.0)], "<=", 1.0)
                    continue
                y: Term = (("y", t, k, h), 1.0)
                count = float(len(receivers))  # the row times |V_t|: solvers read a third from a file as a decimal
                terms = [(y[0], count), (self.at(p, k), -count), *((x, -1.0) for x in there)]
                yield row(f"coherence_{t}_{k}_{h}", terms, ">=", -count)
                yield row(f"sent_{t}_{k}_{h}", [y, (self.at(p, k), -1.0)], "<=")
                yield row(f"received_{t}_{k}_{h}", [y, *((x, -1.0) for x in there)], "<=")

    def colocation(self) -> Iterable[Row]:
        """x_ik = x_jk for layers that must share a server."""
        for i, j in self.problem.colocated:
            for k in self.servers:
                yield row(f"together_{i}_{j}_{k}", [(self.at(i, k), 1.0), (self.at(j, k), -1.0)], "==")

    def products(self) -> Iterable[Row]:
        """x^q = x q and y^q = y q: product <= each factor, product >= their sum - 1."""
        for kind in ("xq", "yq"):
            for key in self.keys(kind):
                left, right = (kind[0], *key[1:]), ("q", key[1] if kind == "xq" else self.problem.producer[key[1]])
                name = "_".join(map(str, key))
                yield row(f"product_a_{name}", [(key, 1.0), (left, -1.0)], "<=")
                yield row(f"product_b_{name}", [(key, 1.0), (right, -1.0)], "<=")
                yield row(f"product_c_{name}", [(key, 1.0), (left, -1.0), (right, -1.0)], ">=", -1.0)

    def noise(self, noise: NoiseModel | None, most: float) -> Iterable[Row]:
        """eta(q) <= eta_max, each monomial z = prod q_i linearised, the intercept on "any q_i = 1".

        Models that are no polynomials have no monomials: schemes above the limit are cut off instead (see `cuts`).
        """
        if noise is None or not self.problem.quantizable or (math.isinf(most) and not isinstance(noise, Table)):
            return
        if not isinstance(noise, Polynomial):
            yield from self._cuts(noise, most)
            return
        if not within(LEAST, most):  # what is predicted has some noise
            yield row("float32", [(("q", i), 1.0) for i in self.problem.quantizable], "<=")
            return
        of = {name: ("q", i) for name, i in zip(noise.layers, self.problem.quantizable, strict=True)}
        terms: list[Term] = []
        for n, (names, coefficient) in enumerate(noise.terms.items()):
            bits = [of[name] for name in names]
            z = bits[0] if len(bits) == 1 else self._variable("z", n)
            terms.append((z, coefficient))
            if len(bits) > 1:
                most_one = [row(f"monomial_{n}_{m}", [(z, 1.0), (bit, -1.0)], "<=") for m, bit in enumerate(bits)]
                least = row(f"monomial_{n}", [(z, 1.0), *((bit, -1.0) for bit in bits)], ">=", 1.0 - len(bits))
                yield from self._pushed([*most_one, least], coefficient)
        exists = self._variable("any")
        each = [row(f"any_{bit[1]}", [(exists, 1.0), (bit, -1.0)], ">=") for bit in of.values()]
        none = row("any", [(exists, 1.0), *((bit, -1.0) for bit in of.values())], "<=")
        yield from self._pushed([*each, none], noise.intercept)
        yield row("noise", [*terms, (exists, noise.intercept)], "<=", loosened(most, HALF) ** noise.power)

    def _cuts(self, noise: NoiseModel, most: float) -> Iterable[Row]:
        bits = [("q", i) for i in self.problem.quantizable]
        covers, single = cuts(~Limits(most).quiet(noise.every()), len(bits))
        for scheme in covers:  # not all of these layers together
            own = [bit for j, bit in enumerate(bits) if scheme >> j & 1]
            yield row(f"cover_{scheme}", [(bit, 1.0) for bit in own], "<=", len(own) - 1.0)
        for scheme in single:  # not exactly this scheme
            signs = [(bit, 1.0 if scheme >> j & 1 else -1.0) for j, bit in enumerate(bits)]
            yield row(f"scheme_{scheme}", signs, "<=", scheme.bit_count() - 1.0)

    def _pushed(self, sides: list[Row], coefficient: float) -> list[Row]:
        """Return the rows on a product that its coefficient in the noise needs: both sides here, whatever its sign."""
        return sides

    def energy(self, limits: Limits) -> Iterable[Row]:
        """E_0 <= J_0, and limits on E and on T."""
        for what, _, use, most in limits.sums(self.problem.network):
            yield row(what.replace(" ", "_"), self.total(use), "<=", loosened(most, HALF))

    def memory(self) -> Iterable[Row]:
        """Weights on a server, a quarter of them for int8 layers, fit its memory; what float32 layers share is there once.

        z_gk >= x_ik - x^q_ik says that one of the float32 layers that share the constants g runs on k.
        """
        layers = self.problem.graph.layers
        own, int8 = [own_bytes(layer) for layer in layers], [INT8_SHARE * layer.weight_bytes for layer in layers]
        for k, server in enumerate(self.problem.network.servers):
            if server.memory_bytes is not None:
                terms = [(key, own[key[1]]) for key in self.keys("x") if key[2] == k]
                terms += [(key, int8[key[1]] - own[key[1]]) for key in self.keys("xq") if key[2] == k]
                for g, (size, positions) in enumerate(groups(layers)):
                    z = self._variable("held", g, k)
                    terms.append((z, size))
                    for i in positions:
                        float32 = [(self.at(i, k), -1.0), *([(("xq", i, k), 1.0)] if ("xq", i, k) in self.variables else [])]
                        yield row(f"held_{g}_{k}_{i}", [(z, 1.0), *float32], ">=")
                yield row(f"memory_{k}", terms, "<=", loosened(server.memory_bytes, HALF))

    def stages(self, low: float, high: float, unit: float) -> Iterable[Row]:
        """sum_i x_ik f <= b for each server, sum_t y_tn g <= b for each link; b >= low, in units of `unit` seconds.

        Layers and tensors that take longer than `high` in float32 alone must be int8 there. There is no row b <= high: it
        would cut off the plans from which a solver finds better ones.
        """
        b = self._variable("bottleneck")
        self.variables[b] = False
        forms, loads = self.problem.forms, dict[Key, list[Term]]()
        parts = {"y": forms.link_s, "write": forms.encode_s, "read": forms.decode_s}
        for key in [key for key in self.variables if key[0] in ("x", "xq", "y", "yq", "form")]:
            kind, first, k, *rest = key
            if kind in ("x", "xq"):
                seconds = {(k,): self.problem.layer_s[first, k]}
            elif k != rest[0]:  # what moves inside a server is no stage
                seconds = {}
                for part, every in parts.items():
                    of = every[first, k, rest[0]]
                    best = np.take_along_axis(of, self.base[first, k, rest[0]][:, None], axis=-1)[:, 0]
                    place = {"y": (k, rest[0]), "write": (k,), "read": (rest[0],)}[part]
                    seconds[place] = np.array([best[rest[1]], of[rest[1], rest[2]]]) if kind == "form" else best
            else:
                continue
            int8 = (f"{kind}q", *key[1:])
            alone = int8 in self.variables and not any(
                ("form", *key[1:], 0, n) in self.variables for n in range(forms.link_s.shape[-1])
            )
            for place, (float32, other) in seconds.items():
                used = float(float32 if kind in ("x", "y") else other - float32)
                if used or kind != "form":
                    loads.setdefault(place, []).append((key, used / unit))
                if alone and used > high:  # too slow, unless in int8
                    yield row("_".join(map(str, ("fast", *place, *key))), [(key, 1.0), (int8, -1.0)], "<=")
        for place, load in loads.items():
            yield row("_".join(map(str, ("stage", *place))), [*load, (b, -1.0)], "<=")
        yield row("bottleneck", [(b, 1.0)], ">=", low / unit)

    def rows(self, noise: NoiseModel | None, limits: Limits) -> list[Row]:
        """Return all rows; those whose variables have all become constants are left out if they hold."""
        logical = (self.assignment(), self.coherence(), self.colocation(), self.products(), self.forms())
        limiting = (self.noise(noise, limits.max_noise), self.energy(limits), self.memory())
        rows = [r for family in logical for r in family] + [scaled(r) for family in limiting for r in family]
        return [r for r in rows if r.terms or not holds(r)]


class Tight(Slides):
    """The same optima; flows instead of big rows, and only x and q integer.

    Per tensor and receiver j: w_kh >= 0 with sum_h w_kh = x_pk, sum_k w_kh = x_jh and w_kh <= y_kh. x^q has the rows
    sum_k x^q_ik = q_i and x^q <= x (a gain may be negative, so one-sided rows would not do); y^q <= y and y^q <= x^q of
    the producer. A monomial needs only the side that its sign pushes against.
    """

    integers: tuple[str, ...] | None = ("x", "q")

    def _sent(self, t: int, k: int, h: int) -> bool:
        return self._priced(t, k, h) and (self._takes_time(t, k, h) or self.problem.network.servers[k].transmit_j_per_byte > 0)

    def coherence(self) -> Iterable[Row]:
        """Flows between the servers of a tensor's producer and of each receiver, and y above all of them."""
        for t, (p, receivers) in enumerate(zip(self.problem.producer, self.problem.receivers, strict=True)):
            for n, j in enumerate(receivers):
                flow = {}
                for k, h in self.pairs:
                    if self._priced(t, k, h) and self.at(p, k) != 0.0 and self.at(j, h) != 0.0:
                        flow[k, h] = self._variable("w", t, n, k, h)
                for k in self.servers:
                    out = [(w, 1.0) for (a, _), w in flow.items() if a == k]
                    into = [(w, 1.0) for (_, b), w in flow.items() if b == k]
                    yield row(f"from_{t}_{n}_{k}", [*out, (self.at(p, k), -1.0)], "==")
                    yield row(f"to_{t}_{n}_{k}", [*into, (self.at(j, k), -1.0)], "==")
                for (k, h), w in flow.items():
                    if ("y", t, k, h) in self.variables:
                        yield row(f"crosses_{t}_{n}_{k}_{h}", [(w, 1.0), (("y", t, k, h), -1.0)], "<=")

    def products(self) -> Iterable[Row]:
        """sum_k x^q_ik = q_i and x^q <= x; y^q <= y and y^q <= x^q of the producer on the sending server."""
        for i in self.problem.quantizable:
            own = [key for key in self.keys("xq") if key[1] == i]
            yield row(f"quantized_{i}", [*((key, 1.0) for key in own), (("q", i), -1.0)], "==")
            for key in own:
                yield row(f"placed_{i}_{key[2]}", [(key, 1.0), (("x", *key[1:]), -1.0)], "<=")
        for key in self.keys("yq"):
            _, t, k, h = key
            yield row(f"int8_{t}_{k}_{h}", [(key, 1.0), (("y", t, k, h), -1.0)], "<=")
            yield row(f"int8_sent_{t}_{k}_{h}", [(key, 1.0), (self._int8_at(self.problem.producer[t], k), -1.0)], "<=")

    def _int8_at(self, p: int, k: int) -> Key | float:
        return ("xq", p, k) if ("xq", p, k) in self.variables else 0.0

    def _pushed(self, sides: list[Row], coefficient: float) -> list[Row]:
        return [r for r in sides if r.sense == (">=" if coefficient > 0 else "<=")]


def _alternatives(problem: Problem, sums: Sequence[Weights] | None) -> tuple[np.ndarray, list[list[int]]]:
    """Return the form of each tensor on each link that is best by the first sum, and those that another sum may prefer.

    The first is int (tensors, servers, servers, 2); the others are (tensor, server, server, precision, form).
    """
    forms = problem.forms
    if forms.link_s.shape[-1] == 1:
        return np.zeros(forms.link_s.shape[:-1], int), []
    if sums is None:
        parts = (forms.encode_s, np.where(np.isfinite(forms.link_s), forms.link_s, 0.0), forms.decode_s)
        every = np.stack([sum(parts), *parts])
    else:
        every = np.stack([forms.worth(one) for one in sums or [latency_weights(problem.network)]])
    every[:, ~np.isfinite(forms.link_s)] = np.inf
    base = every[0].argmin(axis=-1)
    worse = np.zeros(forms.link_s.shape, bool)
    for n in range(forms.link_s.shape[-1]):  # no better than that one by any sum; of equal ones the first stays
        other = every[..., n : n + 1]
        no_better, equal = (every >= other).all(axis=0), (every == other).all(axis=0)
        worse |= no_better & ~(equal & (np.arange(forms.link_s.shape[-1]) <= n))
    left = ~worse & np.isfinite(forms.link_s)
    np.put_along_axis(left, base[..., None], False, axis=-1)
    return base, np.argwhere(left).tolist()


FORMULATIONS = {"slides": Slides, "milp": Tight}
