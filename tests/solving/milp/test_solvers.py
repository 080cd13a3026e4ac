"""A solver that is missing, wrong, crashes or is stopped: four different things, and none of them passes for an answer."""

import subprocess
import sys

import pulp
import pytest

import dnnsplit as ds
from dnnsplit.solving.milp import solvers
from dnnsplit.solving.milp.solvers import SOLVERS, OutOfTime, SolverFailed, available_solvers

METHODS = ("auto", "elimination", "milp", "slides")


@pytest.fixture(scope="module")
def hard():
    """A question whose limit on the device's energy multipliers leave a gap under."""
    problem = ds.examples.random_problem(30, 3, quantizable=4, seed=1)
    limit = 0.9 * ds.split(*problem).device_energy_j
    assert ds.split(*problem, max_device_energy_j=limit).method == "milp"  # or else take another seed
    return problem, limit


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_solver_is_refused_by_name_whether_or_not_it_would_be_needed(hard, method):
    problem, limit = hard
    for asked in ({}, {"max_device_energy_j": limit}, {"latency_weight": 1, "energy_weight": 1}):
        with pytest.raises(ds.SolverError, match=r"solver 'HIGHS-typo' is unknown \(did you mean 'HiGHS'\?\)"):
            ds.split(*problem, method=method, solver="HIGHS-typo", **asked)
    plan = ds.split(*problem)
    for ask in (ds.explain, ds.bandwidths, ds.energy_front):
        more = {"link": ("s0", "s1")} if ask is ds.bandwidths else {}
        given = (plan, *problem) if ask is ds.explain else problem
        with pytest.raises(ds.SolverError, match="HIGHS-typo"):
            ask(*given, solver="HIGHS-typo", **more)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), -1.0, "1 %", True])
def test_a_gap_or_a_time_limit_that_is_no_number_is_refused_whether_or_not_it_would_be_needed(method, value):
    for name in ("gap", "time_limit_s"):
        with pytest.raises(ds.OptionError, match=rf"{name} is .*; give a number( or None)?, 0 or more"):
            ds.split(*ds.examples.tiny(), method=method, **{name: value})


@pytest.mark.parametrize("method", METHODS)
def test_an_absent_solver_is_refused_by_name_and_those_that_are_there_are_named(hard, method):
    absent = [name for name in SOLVERS if name not in available_solvers()]
    if not absent:
        pytest.skip("every solver is installed here")
    with pytest.raises(ds.SolverError, match=rf"solver '{absent[0]}' is not installed here; there are HiGHS, CBC"):
        ds.split(*hard[0], method=method, solver=absent[0])


def test_a_crash_is_told_from_a_limit_of_time_and_from_an_infeasibility(hard, monkeypatch):
    problem, limit = hard
    asked = {"max_device_energy_j": limit}
    exact = ds.split(*problem, **asked)
    solvers._prove("HiGHS")

    def crashed(*_):
        raise pulp.PulpSolverError("it fell over")

    with monkeypatch.context() as patch:
        patch.setattr(solvers, "_run", crashed)
        plan = ds.split(*problem, **asked)  # what the multipliers found, with their bound
        assert (plan.status, plan.method) == ("feasible", "elimination")
        assert "HiGHS failed: it fell over" in plan.reason
        assert "in time" not in plan.reason
        assert plan.bound <= exact.latency_s * (1 + 1e-9) <= plan.latency_s * (1 + 2e-9)
        with pytest.raises(SolverFailed, match="HiGHS failed: it fell over; try another solver"):
            ds.split(*problem, method="milp", **asked)

    def unsolved(programme, *_):
        programme.assignStatus(pulp.LpStatusNotSolved, pulp.LpSolutionNoSolutionFound)
        programme.solverModel = None
        return ""

    with monkeypatch.context() as patch:
        patch.setattr(solvers, "_run", unsolved)
        patch.setattr(solvers, "_out_of_time", lambda *_: True)
        plan = ds.split(*problem, time_limit_s=1.0, **asked)
        assert plan.status == "feasible"
        assert "HiGHS found nothing better in time" in plan.reason
        with pytest.raises(OutOfTime, match="give it more than time_limit_s=1"):
            ds.split(*problem, method="milp", time_limit_s=1.0, **asked)
        patch.setattr(solvers, "_out_of_time", lambda *_: False)
        assert "HiGHS failed" in ds.split(*problem, time_limit_s=1.0, **asked).reason

    def infeasible(programme, *_):
        programme.assignStatus(pulp.LpStatusInfeasible, pulp.LpSolutionInfeasible)
        return ""

    with monkeypatch.context() as patch:
        patch.setattr(solvers, "_run", infeasible)
        plan = ds.split(*problem, **asked)
        assert (plan.status, "calls that infeasible, which it is not" in plan.reason) == ("feasible", True)
    with pytest.raises(ds.InfeasibleError):
        ds.split(*problem, max_device_energy_j=1e-12)


def test_a_version_with_wrong_optima_on_record_is_refused_by_name(monkeypatch):
    for number in ("1.13.0", "1.14.0", "1.15.0"):
        monkeypatch.setattr(solvers, "version", lambda _, number=number: number)
        with pytest.raises(ds.SolverError, match=rf"HiGHS {number} is known to call optimal what is not .* 'highspy>=1.15.1'"):
            ds.split(*ds.examples.tiny())


@pytest.mark.parametrize("solver", available_solvers())
def test_the_solvers_that_are_there_get_the_known_problems_right(solver):
    solvers._prove.cache_clear()
    solvers._prove(solver)


def test_a_solver_that_gets_a_known_problem_wrong_is_refused(monkeypatch):
    def wrong(programme, *_):  # what the presolve of HiGHS 1.14.0 answers
        for variable, value in zip(programme.variables(), (0.0, 5.0), strict=True):
            variable.varValue = value
        programme.assignStatus(pulp.LpStatusOptimal)
        return ""

    solvers._prove.cache_clear()
    monkeypatch.setattr(solvers, "_run", wrong)
    with pytest.raises(ds.SolverError, match=r"HiGHS gives 15\.0 for a problem whose optimum is 9\.0"):
        ds.split(*ds.examples.tiny(), method="milp")


def test_solvers_print_nothing():
    code = "import dnnsplit as ds\nfor s in ('HiGHS', 'CBC'): ds.split(*ds.examples.tiny(), method='milp', solver=s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
