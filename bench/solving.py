"""Solve times of all methods in one run, in CPU seconds of one thread; the slides' MILP with PuLP's CBC is the baseline.

    python bench/solving.py                              the shipped model and random graphs
    python bench/solving.py --instance FOLDER            also a folder as `dnnsplit.Instance.save` writes it

Every case runs in a process of its own, so that nothing is cached and the peak of its memory is its own. The clock starts
with graph, network, times and noise in memory, and stops with the plan. Short cases run several times; the median counts.

Each row's CPU seconds and memory are told as ratios to those of the last run too, which bench/solving.csv keeps: a row that is
measured replaces its own there, so commit the file with the change that moved it. Rows that became much slower are named.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import dnnsplit as ds
from dnnsplit.studies.grid import sweep_plans

BASELINE = "slides, CBC"
METHODS = (("slides", "CBC"), ("slides", "HiGHS"), ("milp", "CBC"), ("milp", "HiGHS"))
LIMITS = (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.5)  # on the noise, of the slides
POINTS = 20  # limits that a front would be drawn from, one solve each
AGREE, SAME = 1e-6, 1e-9  # relative differences: of what MILPs prove, and of exact optima
LAST = Path(__file__).with_suffix(".csv")
ROW = ["instance", "question", "method"]  # what names a row
SLOWER = 1.5  # times the last run's CPU seconds or memory that are more than noise
Make = Callable[[], ds.Instance]


@dataclass(frozen=True)
class Answer:
    """What a method answered: objective [s], the gap that it proved, and a remark."""

    objective: float
    gap: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    instance, question, method : what is solved, under which limits, how
    make, work : return the instance, which is not measured, and answer, which is
    repeats : how often; the median of the CPU seconds counts
    solves : of the baseline at `against`, another question, that do the same work
    """

    instance: str
    question: str
    method: str
    make: Make
    work: Callable[[ds.Instance], Answer]
    repeats: int = 1
    solves: int = 1
    against: str = ""


def shipped() -> ds.Instance:
    """Return the shipped model with a polynomial fitted to its noise table."""
    graph, network, times, _ = ds.examples.yolo11n()
    samples = ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / f"{ds.examples.SHIPPED}.csv")
    return ds.Instance(graph, network, times, ds.fit_noise(samples, degree=2))


def six_servers(instance: ds.Instance) -> ds.Instance:
    """Return the same problem with three made-up servers between the instance's three.

    MADE UP, to have a larger problem: times are interpolated geometrically, powers linearly; a link has its sender's
    bandwidth, interpolated geometrically too, and the latency of the way along the chain of the three.
    """
    graph, network, times, noise = instance
    places = np.array([0, 1 / 2, 1, 4 / 3, 5 / 3, 2])
    names = [network.server_names[int(p)] if p == int(p) else f"between{p:.2f}" for p in places]
    seconds = times.frame.pivot(index=["layer", "precision"], columns="server", values="seconds")[list(network.server_names)]
    low = np.minimum(places.astype(int), 1)
    share = places - low
    values = seconds.to_numpy()
    frame = pd.DataFrame(values[:, low] ** (1 - share) * values[:, low + 1] ** share, index=seconds.index, columns=names)
    frame = frame.reset_index().melt(["layer", "precision"], var_name="server", value_name="seconds").dropna()
    watts = [
        [float(np.interp(p, range(3), [getattr(s, what) for s in network.servers])) for p in places]
        for what in ("compute_w", "transmit_w", "transmit_self_w")
    ]
    sent = [max(n.bandwidth_bytes_per_s for n in network.links if n.source == s) for s in network.server_names]
    bandwidth = np.exp(np.interp(places, range(3), np.log(sent)))
    hops = [network.link(a, b).latency_s for a, b in zip(network.server_names, network.server_names[1:], strict=False)]
    way = np.interp(places, range(3), np.r_[0, np.cumsum(hops)])
    links = [
        ds.Link(names[a], names[b], float(bandwidth[a]), float(abs(way[a] - way[b])))
        for a in range(len(places))
        for b in range(len(places))
        if a != b
    ]
    servers = [ds.Server(name, *w) for name, *w in zip(names, *watts, strict=True)]
    return ds.Instance(graph, ds.Network(servers, links, network.source), ds.LayerTimes(frame), noise)


def split(method: str, solver: str = "HiGHS", **options: Any) -> Callable[[ds.Instance], Answer]:
    """Return the work of one solve."""

    def work(instance: ds.Instance) -> Answer:
        plan = ds.split(*instance, method=method, solver=solver, **options)
        return Answer(plan.latency_s, plan.gap, f"by {plan.method}" if method == "auto" else "")

    return work


def limits_of(instance: ds.Instance) -> np.ndarray:
    """Return noise limits from none to all that there is."""
    return np.linspace(0, instance.noise.every().max(), POINTS)


def front(instance: ds.Instance) -> Answer:
    """Make the whole exact front; the objective is the mean over the limits of `limits_of`."""
    found = ds.pareto(*instance)
    return Answer(statistics.mean(found.at(limit).latency_s for limit in limits_of(instance)), note=f"{len(found.plans)} plans")


def points(time_limit_s: float, instance: ds.Instance) -> Answer:
    """Solve the baseline at each of the limits of `limits_of`."""
    plans = [
        ds.split(*instance, max_noise=float(limit), method="slides", solver="CBC", time_limit_s=time_limit_s)
        for limit in limits_of(instance)
    ]
    return Answer(statistics.mean(p.latency_s for p in plans), max(p.gap for p in plans), f"{POINTS} solves")


def grid(instance: ds.Instance) -> Answer:
    """Plan the lines of the slides' figures: servers added one by one, three weights, ten limits; the mean latency counts."""
    graph, network, times, noise = instance
    topologies = {str(n): network.only(*network.server_names[:n]) for n in range(1, len(network.servers) + 1)}
    rows = sweep_plans(graph, topologies, times, noise, max_noise=LIMITS, weights=[1.0, 0.5, 0.0])
    return Answer(rows["latency_s"].mean(), note=f"{len(rows)} plans")


def known_optima(folder: Path, instance: ds.Instance) -> Answer:
    """Solve everything that ``optima.csv`` knows the optimum of."""
    graph, network, times, noise = instance
    worst, rows = 0.0, list(pd.read_csv(folder / "optima.csv").itertuples())
    for row in rows:
        plan = ds.split(graph, network.only(*row.servers.split("+")), times, noise, max_noise=row.max_noise, method="elimination")
        worst = max(worst, abs(getattr(plan, row.objective) / row.optimum - 1))
    verdict = "the same" if worst <= SAME else "DISAGREE"
    return Answer(math.nan, 0.0, f"{len(rows)} known optima {verdict}, worst relative difference {worst:.1e}")


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield every row that is to be measured, the long ones last."""
    limit, question = {"max_noise": options.max_noise}, f"noise <= {options.max_noise:g}"
    timed = {"time_limit_s": options.time_limit}
    found: dict[str, Make] = {"random 100 x 3": partial(ds.examples.random_problem, 100, 3, quantizable=6), "yolo11n": shipped}
    if options.instance:
        found[options.instance.name] = partial(ds.Instance.load, options.instance)
    for name, make in found.items():
        for method, solver in METHODS:
            yield Case(name, question, f"{method}, {solver}", make, split(method, solver, **limit, **timed))
        yield Case(name, question, "elimination", make, split("elimination", **limit), repeats=5)
        if options.all_points:
            yield Case(name, "front", BASELINE, make, partial(points, options.time_limit))
        yield Case(name, "slides' grid", "elimination", make, grid)
        yield Case(name, "front", "elimination", make, front, 5, *((1, "") if options.all_points else (POINTS, question)))
    name, make = next(reversed(found.items()))
    if options.instance and (options.instance / "optima.csv").exists():
        yield Case(name, "optima.csv", "elimination", make, partial(known_optima, options.instance))
    fastest = isolated(lambda: ds.split(*make(), **limit).device_energy_j)
    for share in (0.97, 0.995):
        budget = {**limit, "max_device_energy_j": share * fastest}
        asked = f"{question}, E_0 <= {share * fastest:.4g} J"
        yield Case(name, asked, BASELINE, make, split("slides", "CBC", **budget, **timed))
        yield Case(name, asked, "auto", make, split("auto", **budget, **timed))
    six = f"{name}, 6 servers (made up)"
    yield Case(six, question, "auto", lambda: six_servers(make()), split("auto", **limit, **timed), repeats=5)
    for servers in (10, 20):
        large = partial(ds.examples.random_problem, 10000, servers)
        yield Case(f"random 10000 x {servers}", "float32", "elimination", large, split("elimination"))


def isolated(work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a process of its own."""
    context = multiprocessing.get_context("fork")  # which needs nothing that can be pickled, and keeps what is imported
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(work()))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the process of this case ended with code {child.exitcode}") from None
    finally:
        child.join()


def cpu_s() -> float:
    """CPU seconds so far, of this process and of the solvers it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(case: Case) -> dict[str, Any]:
    """One row of the table, measured in this process: CPU seconds, peak memory [MB], and the answer."""
    instance = case.make()
    for method in ("milp", "slides"):  # what is imported on first use is no part of a solve
        ds.split(*ds.examples.tiny(), method=method, solver="CBC" if "CBC" in case.method else "HiGHS")
    started = cpu_s()
    try:
        answer = case.work(instance)
    except ds.SolverError as error:
        answer = Answer(math.nan, math.nan, str(error).partition(";")[0])
    seconds = cpu_s() - started
    # Linux counts in kB, macOS in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    if not answer.gap <= AGREE:
        answer = replace(answer, note=answer.note or "not proved in time")
    names = {"instance": case.instance, "question": case.question, "method": case.method}
    return names | {"cpu_s": seconds, "objective": answer.objective, "gap": answer.gap, "peak_mb": peak, "note": answer.note}


def with_factors(rows: list[dict[str, Any]], asked: list[Case]) -> pd.DataFrame:
    """Add how many times faster than the baseline each row is, in the same run."""
    baseline = {(r["instance"], r["question"]): r for r in rows if r["method"] == BASELINE}
    for row, case in zip(rows, asked, strict=False):
        slow = baseline.get((case.instance, case.against or case.question))
        if slow is None or not row["gap"] <= AGREE:
            row["times faster"] = ""
            continue
        proved = slow["gap"] <= AGREE
        row["times faster"] = f"{'' if proved else 'at least '}{case.solves * slow['cpu_s'] / row['cpu_s']:.4g}"
        remarks = [row["note"], f"{case.solves} baseline solves" * (case.solves > 1), "baseline not proved" * (not proved)]
        row["note"] = "; ".join(filter(None, remarks))
    return pd.DataFrame(rows)


def compared(table: pd.DataFrame, last: pd.DataFrame) -> pd.DataFrame:
    """Add each row's CPU seconds and peak memory over those of the last run; NaN where that had no such row."""
    old = table[ROW].merge(last, how="left", on=ROW)
    ratios = {f"{what} / last": (table[what] / old[what]).to_numpy() for what in ("cpu_s", "peak_mb")}
    return table.assign(**ratios)


def remembered(table: pd.DataFrame, last: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last run with those that were measured now in their places, new ones at the end."""
    kept = table[[*ROW, "cpu_s", "peak_mb", "objective", "gap"]]
    rows = {tuple(row[name] for name in ROW): row for frame in (last, kept) for row in frame.to_dict("records")}
    return pd.DataFrame(list(rows.values()), columns=kept.columns)


def recall(path: Path) -> pd.DataFrame:
    """Return the last run's table, empty if there is none."""
    columns = {**dict.fromkeys(ROW, str), **dict.fromkeys(("cpu_s", "peak_mb", "objective", "gap"), float)}
    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    return pd.read_csv(path, dtype=columns, keep_default_na=False, na_values={name: [""] for name in columns if name not in ROW})


def disagreements(table: pd.DataFrame) -> list[str]:
    """Say which answers that were proved differ."""
    found = [f"{row.instance}: {row.note}" for row in table.itertuples() if "DISAGREE" in row.note]
    for key, group in table[table["gap"] <= AGREE].dropna(subset="objective").groupby(["instance", "question"]):
        low, high = group["objective"].min(), group["objective"].max()
        if high - low > 2 * AGREE * abs(low):
            found.append(f"{' with '.join(key)}: proved optima from {low!r} to {high!r}")
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instance", type=Path, help="folder of an instance")
    parser.add_argument("--max-noise", type=float, default=0.05)
    parser.add_argument("--time-limit", type=float, default=300.0, help="wall seconds for each MILP")
    parser.add_argument("--only", default="", help="measure only the rows whose names contain this")
    parser.add_argument("--all-points", action="store_true", help=f"solve the baseline at {POINTS} limits for the front, really")
    options = parser.parse_args()
    tqdm.monitor_interval = 0  # no thread beside the processes that are forked
    asked = [c for c in cases(options) if options.only.lower() in f"{c.instance}, {c.question}, {c.method}".lower()]
    rows: list[dict[str, Any]] = []
    try:
        with tqdm(asked, unit="row") as bar:
            for case in bar:
                bar.set_description(f"{case.instance}, {case.question}, {case.method}")
                runs = [isolated(partial(measure, case)) for _ in range(case.repeats)]
                rows.append(runs[0] | {"cpu_s": statistics.median(run["cpu_s"] for run in runs)})
    finally:  # an interruption keeps what is there
        last = recall(LAST)
        table = compared(with_factors(rows, asked), last) if rows else pd.DataFrame()
        print(table.to_string(index=False, float_format="{:.4g}".format))
        if rows:
            LAST.write_text(remembered(table, last).to_csv(index=False, float_format="%.6g"))
    for row in table.to_dict("records"):
        for what in ("cpu_s", "peak_mb"):
            if row[f"{what} / last"] > SLOWER:
                print(f"{row['instance']}, {row['question']}, {row['method']}: {row[f'{what} / last']:.3g} times the last {what}")
    wrong = disagreements(table)
    print("\n".join(wrong) if wrong else "All proved answers agree.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
