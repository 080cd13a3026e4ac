"""How long the steps of one solve take, against the sizes of graph and network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.examples.shipped import random_problem
from dnnsplit.ground.errors import OptionError, SolverError, nearest, raise_problems
from dnnsplit.ground.files import write_text
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.keywords import named
from dnnsplit.ground.paths import exists
from dnnsplit.ground.tables import MOST_BYTES, read_table
from dnnsplit.ground.units import is_number, is_whole
from dnnsplit.noise.schemes import pack
from dnnsplit.profiling.wire_forms import PLAIN
from dnnsplit.solving.instance import Instance
from dnnsplit.solving.milp.solvers import solve_milp
from dnnsplit.solving.objective import Objective
from dnnsplit.solving.payoffs import Payoff, normalised_by, objectives, one_after_the_other, payoff
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question, ask
from dnnsplit.solving.request import METHODS, Effort, Request
from dnnsplit.solving.split import answer

STEPS = ("build", "min T", "min E", "weighted", "post-processing")
GRAPHS = {"chain": 0.0, "random": 0.25}  # share of the layers that read a second tensor
JOB = ("graph", "layers", "servers", "method", "quantizable_layers", "latency_weight", "limit_s", "seed")
SIZES = frozenset({"layers", "servers"})  # here these count what they name elsewhere


@named()
def solve_times(
    sizes: Sequence[tuple[int, int]],
    *,
    graphs: Sequence[str] = ("chain", "random"),
    method: str = "elimination",
    latency_weight: float = 0.5,
    quantizable: int = 0,
    time_limit_s: float | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Return the CPU seconds that each step of a solve for a weighted sum takes, at several sizes.

    The steps are those of `split`: "build", the arrays of the problem; "min T" and "min E", by which the sum is normalised, each
    with the other one as the second objective; "weighted", the sum itself; "post-processing", from the answer to a priced plan.
    A MILP does all three solves by itself here, and each of them writes its own programme, which counts there.

    Parameters
    ----------
    sizes : Sequence[tuple[int, int]]
        (layers, servers) of the problems (`dnnsplit.examples.random_problem`): how many layers the graph has, and how many
        servers it may run on.
    graphs : Sequence[str], default ("chain", "random")
        "chain": every layer reads the one before; "random": a quarter of them read another one, too.
    method : str, default "elimination"
        As for `split`: "elimination", "milp" or "slides".
    latency_weight : float, default 0.5
        Of the latency, between 0 and 1; the energy has the rest.
    quantizable : int, default 0
        How many layers may run in int8, without a limit on the noise.
    time_limit_s : float | None, optional
        Wall seconds after which each solve of a MILP is stopped [s].
    seed : int, default 0
        Of the problems.
    resume : str | Path | None, optional
        CSV to which the rows of each solve are added when it is done; those that it has already are not measured again.
    progress : bool, default True
        Show a bar.

    Returns
    -------
    pd.DataFrame
        One row per step that was begun: graph, layers, servers, method, quantizable_layers, latency_weight, limit_s (NaN: none)
        [s], seed, step, cpu_s [s], status: "optimal", "feasible" (stopped, with a plan) or "stopped" (without one; what would
        have come after it has no row).

    Raises
    ------
    OptionError
        An option that is not usable, or a file that is no such table.
    """
    _check(sizes, graphs, method, latency_weight)
    limit_s = None if method == "elimination" else time_limit_s
    effort = Effort(method, time_limit_s=limit_s)
    request = Request(latency_weight=latency_weight, energy_weight=1 - latency_weight, source_forms=(PLAIN,))
    common = (method, quantizable, float(latency_weight), limit_s, seed)
    jobs = list(dict.fromkeys((graph, *size, *common) for graph in graphs for size in sizes))
    measured = _known(resume)
    if any(job not in measured for job in jobs):
        solve_in_steps(random_problem(8, 2, seed=seed), request, effort)  # what is loaded on first use is no part of a solve
    for job in tqdm(jobs, unit="solve", disable=not progress):
        if job in measured:
            continue
        graph, layers, servers = job[:3]
        problem = random_problem(layers, servers, quantizable, seed, GRAPHS[graph])
        _, steps = solve_in_steps(problem, request, effort)
        measured[job] = [dict(zip(JOB, job, strict=True)) | step for step in steps]
        if resume is not None:
            write_text(resume, pd.DataFrame([row for rows in measured.values() for row in rows]).to_csv(index=False))
    frame = pd.DataFrame([row for job in jobs for row in measured[job]]).astype({"limit_s": float})
    frame.attrs["units"] = {"limit_s": "s", "cpu_s": "s"}
    return frame


def solve_in_steps(problem: Instance, request: Request, effort: Effort) -> tuple[Plan | None, list[dict[str, Any]]]:
    """Solve for a weighted sum as `split` does, with a stopwatch between its steps.

    Parameters
    ----------
    problem : Instance
        Whose inputs are sent in the plain form.
    request : Request
        With both weights above 0.
    effort : Effort
        By elimination, or by a MILP, which then finds the least latency and the least energy too.

    Returns
    -------
    tuple[Plan | None, list[dict[str, Any]]]
        The plan, or None where a step was stopped before there was one; step, cpu_s [s] and status of each, see `solve_times`.
    """
    steps: list[dict[str, Any]] = []
    try:
        with _step("build", steps):
            question = ask(*problem, request)
        latency, energy = objectives(question)
        with _step("min T", steps) as told:
            fast = _payoff(question, latency, energy, effort)
            told["status"] = "optimal" if fast[1] else "feasible"
        with _step("min E", steps) as told:
            frugal = _payoff(question, energy, latency, effort)
            told["status"] = "optimal" if frugal[1] else "feasible"
        with _step("weighted", steps) as told:
            told["status"], finish = _weighted(normalised_by(question, fast, frugal), effort)
        with _step("post-processing", steps):
            plan = finish()
    except SolverError:
        return None, steps
    return plan, steps


@contextmanager
def _step(name: str, steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    told, started = {"step": name, "cpu_s": 0.0, "status": "stopped"}, time.process_time()
    steps.append(told)
    try:
        yield told
        told["status"] = "optimal" if told["status"] == "stopped" else told["status"]
    finally:
        told["cpu_s"] = time.process_time() - started


def _payoff(question: Question, first: Objective, second: Objective, effort: Effort) -> Payoff:
    if effort.method == "elimination":
        return payoff(question, first, second, lambda one: answer(one, effort))
    return one_after_the_other(question.aimed_at(first), second, lambda one: answer(one, effort))


def _weighted(question: Question, effort: Effort) -> tuple[str, Callable[[], Plan]]:
    """Solve; return the status, and what makes a priced plan of the answer."""
    if effort.method == "elimination":
        scheme = question.best_scheme()
        placement = question.optima.placement(scheme)
        return "optimal", lambda: question.plan(placement, scheme, effort.method, question.price(placement, scheme))
    found = solve_milp(question.problem, question.objective.weights, question.noise, question.limits, effort.method, effort)

    def finish() -> Plan:
        bits = pack(found.quantized)
        cost = question.problem.price(found.placement, bits, routes=found.routes, chosen=found.forms)
        return question.plan(found.placement, bits, effort.method, cost, effort.solver, status=found.status, bound=found.bound)

    return found.status, finish


def _check(sizes: Sequence[tuple[int, int]], graphs: Sequence[str], method: str, latency_weight: float) -> None:
    problems = [f"{name} is empty; give at least one" for name, axis in (("sizes", sizes), ("graphs", graphs)) if not len(axis)]
    wrong = [size for size in sizes if len(size) != 2 or not all(is_whole(number, 1) for number in size)]
    problems += [f"the size {size!r} is no pair (layers, servers) of whole numbers above 0, such as (100, 3)" for size in wrong]
    problems += [f"graph {graph!r} is unknown{nearest(graph, GRAPHS)}" for graph in graphs if graph not in GRAPHS]
    methods = [name for name in METHODS if name != "auto"]  # which would choose another one from size to size
    problems += [f"method {method!r} is unknown{nearest(method, methods)}"] if method not in methods else []
    if not is_number(latency_weight) or not 0 < latency_weight < 1:
        problems.append(f"latency_weight is {latency_weight!r}; a weighted sum needs a number between 0 and 1, such as 0.5")
    raise_problems(OptionError, "solve_times", problems)


def _known(resume: str | Path | None) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Return the rows of a file by their job."""
    if resume is None or not exists(resume):
        return {}
    way_out = "give another file, or remove it"
    kind = Kind("is no table of solve times, to go on from", OptionError, MOST_BYTES, "the table", way_out=way_out)
    frame = read_table(resume, SIZES, kind)
    missing = [f"the column {name!r} is missing" for name in (*JOB, "step", "cpu_s", "status") if name not in frame]
    raise_problems(OptionError, f"{resume} is no table of solve times, to go on from; give another file, or remove it", missing)
    known: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        known.setdefault(tuple(row[name] for name in JOB), []).append({str(name): value for name, value in row.items()})
    return known
