"""Solve times of all methods in one run, in CPU seconds of one thread; the slides' MILP with PuLP's CBC is the baseline.

    python bench/solving.py                              the shipped model and random graphs
    python bench/solving.py --instance FOLDER            also a folder as `dnnsplit.Instance.save` writes it
"""

from __future__ import annotations

import argparse
import math
import resource
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

import dnnsplit as ds

BASELINE = "slides, CBC"


def cpu_s() -> float:
    """CPU seconds so far, of this process and of the solvers it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def instances(folder: Path | None) -> dict[str, ds.Instance]:
    """Problems with a noise polynomial and three servers."""
    graph, network, times, _ = ds.examples.yolo11n()
    samples = ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / f"{ds.examples.SHIPPED}.csv")
    found = {
        "random 100 x 3": ds.examples.random_problem(100, 3, quantizable=6),
        "yolo11n (shipped), degree 2": ds.Instance(graph, network, times, ds.fit_noise(samples, degree=2)),
    }
    if folder:
        found[folder.name] = ds.Instance.load(folder)
    return found


def measure(name: str, method: str, work: Callable[[], tuple[float, float]]) -> dict[str, object]:
    """One row of the table: CPU seconds from graph to plan, the objective and the gap that was proved."""
    started = cpu_s()
    try:
        objective, gap = work()
        note = "" if gap <= 1e-6 else "not proved"
    except ds.SolverError as error:
        objective, gap, note = math.nan, math.nan, str(error)
    return {"instance": name, "method": method, "cpu_s": cpu_s() - started, "objective": objective, "gap": gap, "note": note}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instance", type=Path)
    parser.add_argument("--max-noise", type=float, default=0.05)
    parser.add_argument("--time-limit", type=float, default=180.0, help="wall seconds for each MILP")
    options = parser.parse_args()
    rows = []
    methods = [("slides", "CBC"), ("slides", "HiGHS"), ("milp", "CBC"), ("milp", "HiGHS"), ("elimination", "")]
    for name, instance in instances(options.instance).items():
        for method, solver in tqdm(methods, desc=name):

            def one(method: str = method, solver: str = solver, instance: ds.Instance = instance) -> tuple[float, float]:
                limits = {"max_noise": options.max_noise, "time_limit_s": options.time_limit}
                plan = ds.split(*instance, method=method, solver=solver or "HiGHS", **limits)
                return plan.latency_s, plan.gap

            rows.append(measure(name, f"{method}, {solver}".rstrip(", "), one))

        def front(instance: ds.Instance = instance) -> tuple[float, float]:
            return ds.pareto(*instance).at(options.max_noise).latency_s, 0.0

        rows.append(measure(name, "elimination, whole front", front))
    table = pd.DataFrame(rows)
    baseline = table[table["method"] == BASELINE].set_index("instance")["cpu_s"]
    table["times faster"] = table["instance"].map(baseline) / table["cpu_s"]
    print(table.to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
