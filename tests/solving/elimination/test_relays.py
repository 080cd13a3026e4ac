"""Relays: the trees against every set of links, and the whole problem against every assignment with those trees."""

import contextlib
import itertools
import math

import numpy as np
import pytest
from helpers.problems import by_hand, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.solving.arrays import build_problem, energy_weights, latency_weights
from dnnsplit.solving.elimination.relays import MAX_PRICES, connect, multicast, relay_tables, tree
from dnnsplit.solving.milp.solvers import solve_milp
from dnnsplit.solving.objective import Limits
from dnnsplit.solving.request import Request

few = settings(deadline=None, max_examples=25)
servers_and_seed = {"seed": st.integers(0, 10**6), "servers": st.integers(2, 4)}


def random_price(rng, servers, whole=False):
    """Prices of two objectives; small whole numbers have many ties. Some links are missing, the diagonal is a self link."""
    price = rng.integers(0, 4, (2, servers, servers)).astype(float) if whole else rng.uniform(0.1, 2, (2, servers, servers))
    price[0][(rng.random((servers, servers)) < 0.4) & ~np.eye(servers, dtype=bool)] = np.inf
    return price


def connecting(exists, start, targets):
    """All sets of links that bring a tensor from one server to others, but for those with more links than a tree has."""
    servers = len(exists)
    links = [(k, h) for k in range(servers) for h in range(servers) if k != h and exists[k, h]]
    for count in range(min(servers, len(links) + 1)):
        for chosen in itertools.combinations(links, count):
            there = {start}
            for _ in chosen:
                there |= {h for k, h in chosen if k in there}
            if set(targets) <= there:
                yield chosen


def every_tree(price, start, targets):
    """The least (first, second) over all sets of links that connect, by trying them all."""
    sets = connecting(np.isfinite(price[0]), start, targets)
    best = min((tuple(math.fsum(price[o, k, h] for k, h in chosen) for o in (0, 1)) for chosen in sets), default=(math.inf, 0.0))
    own = price[:, start, start] if start in targets else (0.0, 0.0)
    return best[0] + own[0], best[1] + own[1]


def brute_relay(problem, noise, max_noise=math.inf, most_device_j=math.inf, value=latency_weights):
    """The least objective over every assignment, every scheme and, for every tensor, every set of links."""
    network, graph = problem.network, problem.graph
    device = energy_weights(network, network.source)
    best = math.inf
    for bits in itertools.product((0, 1), repeat=len(problem.quantizable)):
        quantized = {i for i, bit in zip(problem.quantizable, bits, strict=True) if bit}
        if noise.of([graph.layer_names[i] for i in quantized]) > max_noise:
            continue
        for places in itertools.product(range(len(network.servers)), repeat=len(graph.layers)):
            points = {(0.0, 0.0)}  # (objective, device energy) of what is chosen so far
            for i, k in enumerate(places):
                points = _plus(
                    points, [problem.layer_s[i, k, int(i in quantized)] * w.compute[k] for w in (value(network), device)]
                )
            for t, (p, receivers) in enumerate(zip(problem.producer, problem.receivers, strict=True)):
                if not receivers:
                    continue
                ends = [problem.source if v < 0 else places[v] for v in (p, *receivers)]
                points = _least_of(
                    points,
                    problem.transfer_s[t, :, :, int(p in quantized)],
                    ends[0],
                    set(ends[1:]),
                    value(network).transfer,
                    device.transfer,
                )
            best = min([best, *(a for a, b in points if b <= most_device_j)])
    return best


def _plus(points, step):
    return {(a + step[0], b + step[1]) for a, b in points}


def _least_of(points, seconds, start, targets, *worth):
    own = [seconds[start, start] * w[start, start] * (start in targets) for w in worth]
    sums = set()
    for chosen in connecting(np.isfinite(seconds), start, targets):
        sums |= _plus(points, [own[o] + math.fsum(seconds[n] * w[n] for n in chosen) for o, w in enumerate(worth)])
    kept = []
    for point in sorted(sums):  # what is worse in both is never needed
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return set(kept)


@few
@given(**servers_and_seed, whole=st.booleans())
def test_the_trees_are_the_best_of_all_sets_of_links(seed, servers, whole):
    rng = np.random.default_rng(seed)
    price = np.stack([random_price(rng, servers, whole) for _ in range(2)], axis=1)
    trees = multicast(price)
    for n, start, members in itertools.product(range(2), range(servers), range(2**servers)):
        targets = [h for h in range(servers) if members >> h & 1]
        first, second = every_tree(price[:, n], start, targets)
        column = trees.column[members]
        assert trees.price[0, n, start, column] == pytest.approx(first)
        links = tree(price[:, n], start, targets)
        if math.isinf(first):
            assert links is None
            continue
        assert trees.price[1, n, start, column] == pytest.approx(second)
        assert links == trees.route(n, start, members & ~(1 << start)) or whole  # equally good ones may differ
        own = price[:, n, start, start] if start in targets else np.zeros(2)
        assert sum(price[:, n, k, h] for k, h in links) + own == pytest.approx(np.array([first, second]))
        assert connect(start, links, targets) == links  # nothing to spare, in the order of travel
        assert links == tree(price[:, n], start, targets)


@few
@given(**servers_and_seed)
def test_small_sets_alone_and_one_objective_alone_have_the_same_price(seed, servers):
    price = random_price(np.random.default_rng(seed), servers)[:, None]
    every, small, single = multicast(price), multicast(price, most=2), multicast(price[:1])
    for members in range(2**servers):
        assert np.allclose(every.price[0, ..., every.column[members]], single.price[0, ..., single.column[members]], 1e-12, 0.0)
        if members.bit_count() <= 2:
            assert np.array_equal(every.price[..., every.column[members]], small.price[..., small.column[members]])


def test_a_star_is_better_than_shortest_paths():
    # 0 -> 1 and 0 -> 2 cost 3 each; by way of 3 they cost 2 + 2 each, but 0 -> 3 is paid once
    price = np.full((1, 4, 4), np.inf)
    price[0, 0, 1] = price[0, 0, 2] = 3.0
    price[0, 0, 3] = 2.0
    price[0, 3, 1] = price[0, 3, 2] = 1.5
    assert tree(price, 0, [1]) == ((0, 1),)
    assert tree(price, 0, [1, 2]) == ((0, 3), (3, 1), (3, 2))
    assert tree(price, 1, [2]) is None
    assert tree(price, 1, [1]) == ()


def test_too_many_sets_are_refused_with_a_way_out():
    with pytest.raises(ds.SolverError, match=r"go to 14 of 14 servers .* use routing='direct'"):
        multicast(np.ones((1, 1 + MAX_PRICES // 2**14, 14, 14)))
    with pytest.raises(ds.SolverError, match="too many ways"):
        tree(np.ones((1, 25, 25)), 0, range(1, 25))


@few
@given(**servers_and_seed, readers=st.lists(st.integers(-1, 4), min_size=1, max_size=4, unique=True), p=st.integers(-1, 4))
def test_the_table_of_a_tensor_has_the_tree_of_every_placement(seed, servers, readers, p):
    readers = [r for r in readers if r != p or r == -1]
    layers = sorted({v for v in (p, *readers) if v >= 0})
    if not readers:
        return
    rng = np.random.default_rng(seed)
    price = np.stack([np.stack([random_price(rng, servers) for _ in range(2)], axis=1) for _ in range(3)], axis=1)
    table = relay_tables(price, {1: (p, readers), 2: (p, readers[:1])}, 0)[1]
    assert table.shape == (2, 2, *[servers] * len(layers))
    for precision, places in itertools.product(range(2), itertools.product(range(servers), repeat=len(layers))):
        at = dict(zip(layers, places, strict=True)) | {-1: 0}
        first, second = every_tree(price[:, 1, precision], at[p], {at[r] for r in readers})
        assert table[0, precision, *places] == pytest.approx(first)
        if math.isfinite(first):
            assert table[1, precision, *places] == pytest.approx(second)


def relayed(seed, layers, servers=3, missing=0.4):
    graph, network, times, noise = random_small(seed, layers, servers, 1, missing)
    return build_problem(graph, network, times, noise.layers, Request(routing="relay")), noise


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10**6), limit=st.sampled_from([0.0, math.inf]), value=st.sampled_from([latency_weights, energy_weights])
)
def test_both_programmes_equal_every_assignment_with_every_route(seed, limit, value):
    problem, noise = relayed(seed, 3)
    weights = value(problem.network)
    best = brute_relay(problem, noise, limit, value=value)
    for formulation in ("milp", "slides"):
        if math.isinf(best):
            with pytest.raises(ds.InfeasibleError):
                solve_milp(problem, weights, noise, Limits(limit), formulation)
            continue
        found = solve_milp(problem, weights, noise, Limits(limit), formulation)
        cost = problem.price(found.placement, found.quantized[0], routes=found.routes)
        assert (found.status, weights.of(cost, problem.network)) == ("optimal", pytest.approx(best, rel=1e-6))
        again = problem.price(found.placement, found.quantized[0], weights)  # without limits the cheapest routes are the ones
        assert weights.of(again, problem.network) == pytest.approx(best, rel=1e-6)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_a_limit_on_device_energy_may_choose_other_routes(seed):
    problem, noise = relayed(seed, 3)
    weights, device = latency_weights(problem.network), energy_weights(problem.network, "s0")
    try:
        free = solve_milp(problem, weights, noise, formulation="milp")
    except ds.InfeasibleError:
        return
    limit = 0.8 * device.of(problem.price(free.placement, free.quantized[0], weights), problem.network)
    best = brute_relay(problem, noise, most_device_j=limit)
    for formulation in ("milp", "slides"):
        if math.isinf(best):
            with pytest.raises(ds.InfeasibleError):
                solve_milp(problem, weights, noise, Limits(max_device_energy_j=limit), formulation)
            continue
        found = solve_milp(problem, weights, noise, Limits(max_device_energy_j=limit), formulation)
        cost = problem.price(found.placement, found.quantized[0], routes=found.routes)
        assert cost.latency_s == pytest.approx(best, rel=1e-6)
        assert cost.device_energy_j <= limit * (1 + 1e-6)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), energy_weight=st.sampled_from([0.0, 1.0]))
def test_split_relays_alike_by_every_method(seed, energy_weight):
    graph, network, times, noise = random_small(seed, 5, 3, 2, 0.3)
    options = {"routing": "relay", "energy_weight": energy_weight, "max_noise": 0.06}
    try:
        exact = ds.split(graph, network, times, noise, method="elimination", **options)
    except ds.InfeasibleError:
        with pytest.raises(ds.InfeasibleError):
            ds.split(graph, network, times, noise, method="milp", **options)
        return
    for method in ("milp", "slides"):
        assert ds.split(graph, network, times, noise, method=method, **options).objective == pytest.approx(
            exact.objective, rel=1e-6, abs=1e-7
        )
    if energy_weight == 0.0:
        assert exact.latency_s == pytest.approx(
            brute_relay(build_problem(graph, network, times, noise.layers, Request(routing="relay")), noise, 0.06)
        )
        with contextlib.suppress(ds.InfeasibleError):  # without relays there may be no plan at all
            assert exact.latency_s <= ds.split(graph, network, times, noise, max_noise=0.06).latency_s * (1 + 1e-12)


def chain():
    """by_hand with a third server that only relays reach: device -> edge -> cloud -> device, and edge -> device."""
    graph, network, times = by_hand()
    links = [*network.links, ds.Link("edge", "cloud", 400.0, 0.5), ds.Link("cloud", "device", 50.0, 0.0)]
    network = ds.Network([*network.servers, ds.Server("cloud", 10.0, 2.0)], links, "device")
    frame = times.frame[times.frame["server"] == "edge"].assign(server="cloud")
    return graph, network, ds.LayerTimes(type(frame)([*times.frame.to_dict("records"), *frame.to_dict("records")]))


SPREAD = {"a": "device", "b": "edge", "c": "cloud", "d": "device"}
ROUTES = {"t1": [("edge", "cloud"), ("device", "edge")]}  # in any order


class TestEvaluate:
    def test_a_shared_link_is_paid_once_and_the_relay_pays_for_sending_on(self):
        cost = ds.evaluate(*chain(), SPREAD, routes=ROUTES)
        moved = [(t.tensor, t.source, t.target, t.seconds) for t in cost.transfers]
        assert moved == [
            ("t1", "device", "edge", 0.5 + 4.0), ("t1", "edge", "cloud", 0.5 + 1.0),
            ("t2", "edge", "device", 0.25 + 1.0), ("t3", "cloud", "device", 8.0),
        ]  # fmt: skip
        assert cost.latency_s == (4 + 0.5 + 0.25 + 0.5) + 4.5 + 1.5 + 1.25 + 8.0
        assert cost.server_energy_j == {
            "device": 2.0 * 4.5 + 3.0 * 4.5, "edge": 5.0 * 0.5 + 1.0 * (1.5 + 1.25), "cloud": 10.0 * 0.25 + 2.0 * 8.0
        }  # fmt: skip

    def test_the_cheapest_routes_are_found(self):
        graph, network, times = chain()
        problem = build_problem(graph, network, times, request=Request(routing="relay"))
        placement = [network.server_names.index(SPREAD[n]) for n in graph.layer_names]
        routes = problem.routes(placement, 0)
        assert routes["t1"] == (("device", "edge"), ("edge", "cloud"))
        assert problem.price(placement, 0) == ds.evaluate(graph, network, times, SPREAD, routes=routes)
        with pytest.raises(ds.InfeasibleError, match="'device' -> 'cloud', where there is no link"):
            build_problem(graph, network, times).price(placement, 0)
        forbidden = build_problem(graph, network, times, (), Request(routing="relay", forbid_links=[("edge", "cloud")]))
        with pytest.raises(
            ds.InfeasibleError, match="tensor 't1' cannot get from 'device' to 'edge', 'cloud', not even by relays"
        ):
            forbidden.price(placement, 0)

    def test_the_makespan_waits_for_each_hop(self):
        # a ..4; t1 at edge 8.5, b ..9, t2 home 10.25; t1 at cloud 10, c ..10.25, t3 home 18.25; d ..18.75
        assert ds.makespan(*chain(), SPREAD, routes=ROUTES) == pytest.approx(18.75)

    @pytest.mark.parametrize(
        ("routes", "error", "text"),
        [
            ({"t9": []}, ds.ModelError, "routes: there is no tensor 't9'"),
            ({"t1": [("device", "cloud"), ("cloud", "edge")]}, ds.InfeasibleError, "'device' -> 'cloud', where there is no link"),
            ({"t1": [("device", "edge")]}, ds.InfeasibleError, "does not bring it from 'device' to 'cloud'"),
            ({"t1": [("edge", "cloud")]}, ds.InfeasibleError, "has 'edge' -> 'cloud', but it never gets to 'edge'"),
            ({"t1": [*ROUTES["t1"], ("edge", "device")]}, ds.InfeasibleError, "brings it to 'device' once more"),
        ],
    )
    def test_a_wrong_route_is_named(self, routes, error, text):
        with pytest.raises(error, match=text):
            ds.evaluate(*chain(), SPREAD, routes=routes)


def test_an_unknown_routing_is_refused():
    with pytest.raises(ds.OptionError, match=r"routing 'relays' is unknown \(did you mean 'relay'\?\)"):
        ds.split(*by_hand(), routing="relays")
