"""The steps of a solve: they give what `split` gives, and a stopped study goes on."""

import itertools

import numpy as np
import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.solving.request import Effort, Request
from dnnsplit.studies.scale import GRAPHS, STEPS, solve_in_steps, solve_times

BOTH = {"latency_weight": 0.5, "energy_weight": 0.5}


@pytest.mark.parametrize(
    ("method", "graph", "seed"),
    [*itertools.product(("elimination", "milp", "slides"), GRAPHS, (0, 1)), ("elimination", "random", 2)],
)
def test_the_steps_give_the_plan_of_split(method, graph, seed):
    problem = ds.examples.random_problem(14, 3, 3, seed, GRAPHS[graph])
    plan, steps = solve_in_steps(problem, Request(max_noise=0.05, **BOTH), Effort(method))
    wanted = ds.split(*problem, max_noise=0.05, method=method, **BOTH)
    assert (plan.assignment, plan.quantized, plan.status) == (wanted.assignment, wanted.quantized, wanted.status)
    assert plan.method == wanted.method
    assert plan.objective == pytest.approx(wanted.objective, abs=1e-9)
    assert plan.cost.latency_s == pytest.approx(wanted.cost.latency_s)
    for name in ("latency_s", "energy_j"):
        assert plan.reference[name] == pytest.approx(wanted.reference[name])
    assert [step["step"] for step in steps] == list(STEPS)
    assert {step["status"] for step in steps} == {"optimal"}
    assert all(step["cpu_s"] >= 0 for step in steps)


def test_a_chain_has_no_branches_and_the_random_graph_of_a_seed_stays():
    chain = ds.examples.random_problem(50, 2, seed=3, branches=0).graph
    assert [t.consumers for t in chain.tensors[1:-1]] == [(f"layer{i}",) for i in range(1, 50)]
    branched = ds.examples.random_problem(50, 2, seed=3).graph
    joins = [n for n in branched.layer_names if branched.digraph.in_degree(n) > 1]
    assert 5 <= len(joins) <= 20
    every = ds.examples.random_problem(50, 2, seed=3, branches=1).graph
    assert sum(every.digraph.in_degree(n) > 1 for n in every.layer_names) == 46  # all but the first four


def test_rows_of_all_sizes_and_graphs():
    rows = solve_times([(6, 1), (9, 2), (6, 1)], quantizable=2, seed=1, progress=False)
    assert list(rows["step"]) == list(STEPS) * 4
    sizes = list(itertools.product(("chain", "random"), ((6, 1), (9, 2))))
    assert list(rows[["graph", "layers", "servers"]].drop_duplicates().itertuples(index=False, name=None)) == [
        (graph, *size) for graph, size in sizes
    ]  # fmt: skip
    assert set(rows["method"]) == {"elimination"}
    assert rows["limit_s"].isna().all()
    assert rows.attrs["units"]["cpu_s"] == "s"


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "scale.csv"
    asked = {"resume": path, "progress": False}
    first = solve_times([(6, 2)], graphs=["chain"], **asked)
    told = pd.read_csv(path)
    assert list(told["cpu_s"]) == list(first["cpu_s"])
    made = []

    def counted(*size, **more):
        made.append(size[:2])
        return ds.examples.random_problem(*size, **more)

    monkeypatch.setattr("dnnsplit.studies.scale.random_problem", counted)
    again = solve_times([(6, 2)], graphs=["chain"], **asked)
    pd.testing.assert_frame_equal(again, first)
    assert made == []
    more = solve_times([(6, 2), (7, 2)], graphs=["chain"], **asked)
    assert made == [(8, 2), (7, 2)]  # one to warm up
    assert list(more["cpu_s"][:5]) == list(first["cpu_s"])
    solve_times([(6, 2)], graphs=["chain"], latency_weight=0.25, **asked)  # another question: measured
    solve_times([(6, 2)], graphs=["chain"], method="slides", time_limit_s=30, **asked)
    assert len(pd.read_csv(path)) == 20


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("layers,servers\n3,4\n")
    with pytest.raises(ds.OptionError, match=r"is no table of solve times.*\n.*the column 'graph' is missing"):
        solve_times([(6, 2)], resume=tmp_path / "other.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ds.OptionError, match="give another file"):
        solve_times([(6, 2)], resume=tmp_path / "bytes.csv")


def test_what_is_wrong_is_told_at_once():
    with pytest.raises(ds.OptionError) as told:
        solve_times([(6, 0), (5,)], graphs=["chian"], method="eliminate", latency_weight=1)
    for text in (
        "the size (6, 0) is no pair",
        "the size (5,)",
        "did you mean 'chain'",
        "did you mean 'elimination'",
        "is 1; a weig",
    ):
        assert text in str(told.value)
    with pytest.raises(ds.OptionError, match="sizes is empty"):
        solve_times([])
    with pytest.raises(ds.OptionError, match="did you mean 'graphs'"):
        solve_times([(5, 2)], graph="chain")


def test_a_stopped_milp_says_so_and_is_not_gone_on_from(monkeypatch):
    problem = ds.examples.random_problem(40, 3, seed=1)
    plan, steps = solve_in_steps(problem, Request(**BOTH), Effort("slides", time_limit_s=0.0))
    assert [step["step"] for step in steps] == list(STEPS)[: len(steps)]
    if plan is None:
        assert steps[-1]["status"] == "stopped"
    assert "feasible" in {step["status"] for step in steps} or plan is None
    assert np.isfinite([step["cpu_s"] for step in steps]).all()
