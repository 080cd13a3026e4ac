"""How well all methods agree: random questions of random scale, asked of every method, and of toulbar2.

    python bench/agreement.py [--questions 300]

Prints, for each pair, how many questions they answered and the largest relative difference of what they found. Times, bytes and
powers of each question are multiplied by powers of ten from 10^-9 to 10^9. "brute force" prices every assignment and scheme of
small questions; toulbar2 (exact cost-function networks) goes where brute force cannot.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

SMALL = "up to 7 layers, 3 servers, 4 q bits"
LARGE = [(30, 2, 0), (30, 6, 0), (100, 4, 0), (300, 3, 0), (300, 6, 0), (30, 3, 6), (80, 2, 8), (120, 3, 10), (40, 5, 8)]


def small(count: int) -> list[dict[str, object]]:
    """Ask questions that brute force can answer of every method."""
    from helpers.agreement import differences
    from helpers.random_questions import recipes
    from hypothesis import HealthCheck, Phase, given, settings

    rows: list[dict[str, object]] = []
    with tqdm(total=count, desc="small questions", unit="question") as bar:

        @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck])
        @given(recipe=recipes())
        def ask(recipe: object) -> None:
            found, had = differences(recipe)
            rows.extend({"against": "brute force", "method": m, "off": off, **had, "size": SMALL} for m, off in found.items())
            bar.update()

        ask()
    return rows


def large() -> list[dict[str, object]]:
    """Ask questions that only toulbar2 can answer beside us, at three scales each."""
    from helpers.cost_networks import least_latency, question
    from helpers.random_questions import scaled

    import dnnsplit as ds

    rows: list[dict[str, object]] = []
    for shape in tqdm(LARGE, desc="large questions", unit="question"):
        given, terms, most = question(*shape, seed=sum(shape))
        best = least_latency(*given[:3], terms, most)
        asked = {"max_noise": 1e-3 * most} if terms else {}
        for seconds in (1e-9, 1.0, 1e9):
            problem = scaled(dict(zip(("graph", "network", "times", "noise"), given, strict=True)), seconds, 1.0, 1.0)
            for method, solver in (("elimination", "HiGHS"), ("milp", "HiGHS")):
                plan = ds.split(**problem, method=method, solver=solver, **asked)
                off = abs(plan.latency_s / seconds / best - 1)
                name = method if method == "elimination" else f"{method}, {solver}"
                rows.append({"against": "toulbar2", "method": name, "off": off, "size": "30 to 300 layers, 2 to 6 servers"})
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300, help="how many small ones (default: 300)")
    warnings.filterwarnings("ignore", category=UserWarning)
    rows = pd.DataFrame(small(parser.parse_args().questions) + large())
    table = rows.groupby(["against", "size", "method"], sort=False)["off"].agg(questions="count", largest_difference="max")
    print(table.reset_index().to_string(index=False, float_format="{:.1e}".format))


if __name__ == "__main__":
    main()
