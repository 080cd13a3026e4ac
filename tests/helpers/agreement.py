"""Every method is asked one random question, and held against brute force that shares no code with the package."""

import itertools
import math
import sys

import numpy as np
import pytest

import dnnsplit as ds
from helpers.random_questions import apart, random_question

EXACT, MILP = 1e-9, 1e-6  # tolerances, relative to the objective
METHODS = (("elimination", "HiGHS"), ("auto", "HiGHS"), ("milp", "HiGHS"))


class Every:
    """Every (scheme, assignment), priced by the slides' formulas on arrays; it shares no code with the package.

    Attributes
    ----------
    latency_s, energy_j, device_energy_j : float (schemes, assignments)
    possible : bool, of the same shape: links, pins, prohibitions, colocation, memory, and noise that is known and low enough
    """

    def __init__(self, problem, options):
        self.graph, self.network, self.noise = problem["graph"], problem["network"], problem["noise"]
        self.names = [layer.name for layer in self.graph.layers]
        self.hosts = [server.name for server in self.network.servers]
        self.bits = self.noise.layers if self.noise else ()
        self.schemes = np.array(list(itertools.product((0, 1), repeat=len(self.bits))), bool)
        self.x = np.array(list(itertools.product(range(len(self.hosts)), repeat=len(self.names)))).T  # layers, assignments
        forbidden = options.get("forbid_links", ())
        self.links = {(n.source, n.target): n for n in self.network.links if (n.source, n.target) not in forbidden}
        seconds = {(r.layer, r.server, r.precision): r.seconds for r in problem["times"].frame.itertuples()}
        # seconds of compute, of sending to itself and to others, bytes to others, and of weights: by server, scheme, assignment
        shape = (5, len(self.hosts), len(self.schemes), self.x.shape[1])
        self.compute, self.within, self.across, self.sent, self.held = np.zeros(shape)
        self.unlinked = np.zeros(self.x.shape[1], bool)
        for i, layer in enumerate(self.graph.layers):
            for k, host in enumerate(self.hosts):
                f = [seconds.get((layer.name, host, precision), math.nan) for precision in ("float32", "int8")]
                self.compute[k] += self._by_precision(layer.name, f[0], f[1]) * (self.x[i] == k)
                own = layer.weight_bytes - sum(size for _, size in layer.shared)
                self.held[k] += self._by_precision(layer.name, own, layer.weight_bytes / 4) * (self.x[i] == k)
        for name, size in {entry for layer in self.graph.layers for entry in layer.shared}:  # once, if a float32 layer has it
            for k in range(len(self.hosts)):
                there = np.zeros(self.held[k].shape, bool)
                for i, layer in enumerate(self.graph.layers):
                    if name in dict(layer.shared):
                        there |= (self._by_precision(layer.name, 1, 0) == 1) & (self.x[i] == k)
                self.held[k] += size * there
        for tensor in self.graph.tensors:
            self._send(tensor)
        self.latency_s = (self.compute + self.within + self.across).sum(axis=0)
        joules = [
            s.compute_w * c + s.transmit_self_w * w + s.transmit_w * a + s.transmit_j_per_byte * b
            for s, c, w, a, b in zip(self.network.servers, self.compute, self.within, self.across, self.sent, strict=True)
        ]
        self.energy_j, self.device_energy_j = sum(joules), joules[self.hosts.index(self.network.source)]
        self.placed = np.broadcast_to(~self.unlinked & self._placed(options), self.latency_s.shape)
        self.fits = np.ones(self.latency_s.shape, bool)
        for server, held in zip(self.network.servers, self.held, strict=True):
            if server.memory_bytes is not None:
                self.fits &= held <= server.memory_bytes
        self.eta = np.array([self._eta([n for n, bit in zip(self.bits, row, strict=True) if bit]) for row in self.schemes])
        self.quiet = (np.isfinite(self.eta) & (self.eta <= options.get("max_noise", math.inf) * (1 + 1e-12)))[:, None]
        self.objective = self._objective(problem, options.get("latency_weight", 1.0), options.get("energy_weight", 0.0))

    def _by_precision(self, layer, float32, int8):
        """(schemes, 1): the figure of a layer, or of what it makes, in the precision that each scheme gives it."""
        if layer not in self.bits:
            return np.full((len(self.schemes), 1), float32)
        return np.where(self.schemes[:, [self.bits.index(layer)]], int8, float32)

    def _send(self, tensor):
        """y_tn = 1 where the tensor is made on k and somebody on h, or the source as the receiver of outputs, wants it."""
        home = self.hosts.index(self.network.source)
        made = np.full(self.x.shape[1], home) if tensor.producer is None else self.x[self.names.index(tensor.producer)]
        for k, h in itertools.product(range(len(self.hosts)), repeat=2):
            wanted = np.full(self.x.shape[1], tensor.is_output and h == home)
            for consumer in tensor.consumers:
                wanted |= self.x[self.names.index(consumer)] == h
            y, link = (made == k) & wanted, self.links.get((self.hosts[k], self.hosts[h]))
            if link is None:
                self.unlinked |= y & (k != h)
                continue
            sizes = self._by_precision(tensor.producer, tensor.size_bytes, tensor.size_bytes / 4)
            g = link.latency_s + sizes / link.bandwidth_bytes_per_s + sizes * link.serialise_s_per_byte
            (self.within if k == h else self.across)[k] += g * y
            self.sent[k] += sizes * y * (k != h)

    def _placed(self, options):
        """bool (assignments,): where pins, prohibitions and colocation hold."""
        good = np.ones(self.x.shape[1], bool)
        at = {name: self.x[i] for i, name in enumerate(self.names)}
        for name, host in options.get("pins", {}).items():
            good &= at[name] == self.hosts.index(host)
        for name, group in options.get("forbid", {}).items():
            good &= ~np.isin(at[name], [self.hosts.index(host) for host in group])
        for group in options.get("colocate", ()):
            good &= np.all([at[name] == at[group[0]] for name in group], axis=0)
        return good

    def _eta(self, quantized):
        if not quantized:
            return 0.0
        if self.noise.kind == "table":
            return self.noise.table.get(sum(1 << self.bits.index(n) for n in quantized), math.inf)
        inside = sum(c for names, c in self.noise.terms.items() if {*names} <= {*quantized})
        return max(sys.float_info.min, self.noise.intercept + inside)

    def _objective(self, problem, latency_weight, energy_weight):
        """Raw seconds or joules, or the sum normalised by the payoffs of the problem without any limit, pin or prohibition.

        `limit` replaces those payoffs by the ones under limits.
        """
        if energy_weight == 0:
            return self.latency_s
        if latency_weight == 0:
            return self.energy_j
        self.weights, free = (latency_weight, energy_weight), Every(problem, {})
        return self.normalised(free, free.placed) if free.placed.any() else self.latency_s

    def normalised(self, free, among):
        """The slides' sum of T^norm and E^norm, whose extremes are those `among` the placements of `free`."""
        both, total = ("latency_s", "energy_j"), 0.0
        for weight, name, other in zip(self.weights, both, both[::-1], strict=True):
            own, other = getattr(free, name)[among], getattr(free, other)[among]
            low = own.min()
            span = own[other <= other.min() * (1 + 1e-11)].min() - low
            total = total + weight * (getattr(self, name) - low) / (span if span > 1e-9 * (low + span) else low or 1.0)
        return total

    def limit(self, kept):
        """Normalise by the payoffs of the placements that keep every limit."""
        self.objective = self.normalised(self, kept)

    def where(self, options):
        """Return bool (schemes, assignments): everything that keeps every limit."""
        found = self.placed & self.fits & self.quiet
        for name in ("device_energy_j", "energy_j"):
            found = found & (getattr(self, name) <= options.get(f"max_{name}", math.inf))
        return found

    def budgets(self, recipe):
        """Return budgets between the least energy there is and that of the optimum without them."""
        found = {}
        for name, share in (("device_energy_j", recipe.device_energy), ("energy_j", recipe.energy)):
            kept, values = self.where(found), getattr(self, name)
            if share is not None and kept.any():
                least, best = values[kept].min(), values.flat[np.where(kept, self.objective, np.inf).argmin()]
                found[f"max_{name}"] = apart(values[kept], max(0.0, least + share * max(best - least, 0.1 * least)))
        return found


def ask(problem, options, method, solver):
    """Return the plan, or the word for why there is none."""
    try:
        return ds.split(**problem, **options, method=method, solver=solver)
    except ds.InfeasibleError:
        return "infeasible"
    except ds.SolverError as error:
        if method != "elimination" or "elimination cannot keep this limit" not in str(error):
            raise
        return "refused"  # a limit couples the layers; `auto` is asked then


def check_plan(plan, problem, options, every, method):
    """Price the plan anew, hold it against every limit, and return its objective as brute force counts it."""
    cost = ds.evaluate(problem["graph"], problem["network"], problem["times"], plan.assignment, plan.quantized)
    index = tuple(every.hosts.index(plan.assignment[n]) for n in every.names)
    column = int(np.ravel_multi_index(index, (len(every.hosts),) * len(every.names)))
    row = int("0" + "".join(str(int(n in plan.quantized)) for n in every.bits), 2)
    for name in ("latency_s", "energy_j", "device_energy_j"):
        assert getattr(plan, name) == pytest.approx(getattr(cost, name), rel=EXACT)
        assert getattr(every, name)[row, column] == pytest.approx(getattr(cost, name), rel=EXACT)
    rounding = EXACT if "normalise" in options else 0.0  # the normalised sum is 0 where it is least
    assert plan.objective == pytest.approx(every.objective[row, column], rel=EXACT, abs=rounding)
    assert plan.noise == pytest.approx(every.eta[row], rel=EXACT, abs=0)
    if options.get("normalise") == "limited":  # on the slides both terms are in [0, 1]
        assert plan.reference["under"] == "limited"
        assert -MILP <= min(plan.latency_norm, plan.energy_norm) <= max(plan.latency_norm, plan.energy_norm) <= 1 + MILP
    assert plan.status == "optimal"
    assert plan.gap <= MILP
    assert {*plan.quantized} <= {*every.bits}
    assert every.placed[row, column]
    assert plan.noise <= options.get("max_noise", math.inf) * (1 + MILP)
    slack = 1 + MILP
    assert cost.device_energy_j <= options.get("max_device_energy_j", math.inf) * slack
    assert cost.energy_j <= options.get("max_energy_j", math.inf) * slack
    for server in problem["network"].servers:
        if server.memory_bytes is not None:
            assert cost.weight_bytes[server.name] <= server.memory_bytes * slack
    assert plan.method == method or method == "auto"
    return every.objective[row, column]


def differences(recipe):
    """Ask every method; return the relative difference of each from brute force, and what this question had."""
    problem, options = random_question(recipe)
    every = Every(problem, options)
    options |= every.budgets(recipe)
    kept = every.where(options)
    if options.get("normalise") == "limited" and kept.any():
        every.limit(kept)
    best = every.objective[kept].min() if kept.any() else math.inf
    scale = max(1.0, abs(best)) if "normalise" in options else abs(best)  # the normalised sum is 0 where it is least
    found = {}
    for method, solver in (*METHODS, ("slides", ("HiGHS", "CBC")[recipe.seed % 2])):
        if method == "auto" and "elimination" in found:
            continue  # they are the same then
        plan = ask(problem, options, method, solver)
        name = "elimination" if method == "elimination" else f"{method}, {solver}"
        if isinstance(plan, ds.Plan):
            assert math.isfinite(best), f"{name} answers what is infeasible: {plan}"
            value = check_plan(plan, problem, options, every, method)
            found[name] = 0.0 if value == best else abs(value - best) / scale
            assert found[name] <= (EXACT if method == "elimination" else MILP), f"{name}: {value!r}, brute force: {best!r}"
        elif plan == "infeasible":
            assert math.isinf(best), f"{name} calls this infeasible; the optimum is {best!r}"
            found[name] = 0.0
    return found, features(recipe, problem, options, math.isinf(best), "elimination" not in found)


def features(recipe, problem, options, infeasible, refused):
    """Return what the question really has, whatever its recipe asked for."""
    network, noise, frame = problem["network"], problem["noise"], problem["times"].frame
    links = {(link.source, link.target) for link in network.links}
    seconds = frame.pivot(index=["layer", "server"], columns="precision", values="seconds")
    return {
        "7 layers": recipe.layers == 7,
        "3 servers": recipe.servers == 3,
        "3 or 4 q bits": len(noise.layers if noise else ()) >= 3,
        "tensors with several consumers": any(len(t.consumers) > 1 for t in problem["graph"].tensors),
        "layers with several or unread tensors, late inputs": recipe.odd_tensors,
        "missing links": not links >= {*itertools.permutations(network.server_names, 2)},
        "priced moves inside a server": any(a == b for a, b in links),
        "int8 slower than float32": "int8" in seconds and bool((seconds["int8"] > seconds["float32"]).any()),
        "noise polynomial": noise is not None and noise.kind == "polynomial",
        "noise table": noise is not None and noise.kind == "table",
        "noise limit": "max_noise" in options,
        "latency and energy weighed, fixed payoffs": recipe.objective == "fixed",
        "latency and energy weighed, payoffs under the limits": recipe.objective == "limited",
        "budget of device energy": "max_device_energy_j" in options,
        "budget of energy": "max_energy_j" in options,
        "shared weights and memory limits": any(layer.shared for layer in problem["graph"].layers)
        and any(server.memory_bytes is not None for server in network.servers),
        "memory limits": any(server.memory_bytes is not None for server in network.servers),
        "pins": bool(options.get("pins")),
        "forbidden placements": any(options.get("forbid", {}).values()),
        "colocation": "colocate" in options,
        "forbidden links": bool(options.get("forbid_links")),
        "a budget or memory limit that binds": refused,
        "infeasible": infeasible,
        "seconds of 1e-6 or less": recipe.scale[0] <= -6,
        "seconds of 1e6 or more": recipe.scale[0] >= 6,
        "joules of 1e-9 or less": recipe.scale[0] + recipe.scale[2] <= -9,
        "bytes of 1e-6 or less, or 1e6 or more": abs(recipe.scale[1]) >= 6,
    }
