# ruff: noqa: E402, what tests and benchmarks share lies beside them
"""Trust, in one table: bad inputs, fuzzing, interruptions, and requests beside faults and strangers.

python bench/trust.py                                quick: a few seconds of fuzzing for each target, 3000 requests
python bench/trust.py --seconds 600 --times 50 --requests 10000      as it is quoted

``inputs`` are the catalogues of the tests: files of every kind thrown at every loader, and values of a wrong kind given to every
argument of every public callable. Each is refused in our words, or taken, as the loader's tests allow; anything else is foreign,
and slow beyond 5 s. `trust_fuzz`, `trust_stops` and `trust_load` say what the other parts do, and run alone as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import trust_fuzz
import trust_load
import trust_stops

import tests.ground.test_bad_files as files
import tests.test_arguments as arguments

SLOW_S = 5.0
LINKED = ("sweep", "plans", "record")


def bad_files() -> Iterator[dict[str, Any]]:
    """Yield a row for each loader."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, (load, error, groups) in files.every_loader(files.sub(root, "own")).items():
            there = files.sub(root, name)
            row: dict[str, Any] = {"what": f"{name} files", "tried": 0, "refused": 0, "taken": 0, "foreign": 0, "slow": 0}
            foreign: list[str] = []
            made = [files.no_content, *groups]
            for i, group in enumerate(made):
                for kind, path in group(files.sub(there, str(i))):
                    if name in LINKED and kind == "a name with NUL":
                        continue  # it is read by a link, and none can lead there
                    started = time.monotonic()
                    refused = files.told(load, path, error, foreign, kind)
                    row["slow"] += time.monotonic() - started > SLOW_S
                    row["tried"] += 1
                    row["refused" if refused else "taken"] += 1
            row["foreign"] = len(foreign)
            row["refused"] -= len(foreign)
            yield row
            print(*foreign, sep="\n", end="\n" if foreign else "")


def wrong_arguments() -> dict[str, Any]:
    """Return a row for all arguments of all public callables."""
    row: dict[str, Any] = {"what": "arguments", "tried": 0, "refused": 0, "taken": 0, "foreign": 0, "slow": 0}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            with arguments.right_arguments(Path(folder)) as good:
                for name in arguments.public():
                    started = time.monotonic()
                    for called, value, found in arguments.outcomes(name, good):
                        row["tried"] += 1
                        row["refused" if not found else "taken" if found == "accepted" else "foreign"] += 1
                        row["slow"] += time.monotonic() - started > SLOW_S
                        started = time.monotonic()
                        if found:
                            print(f"{name}({called}={str(value)[:40]}): {found[:200]}")
        finally:
            os.chdir(before)
    return row


def shown(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a part of the table."""
    print(f"\n{title}\n{pd.DataFrame(rows).to_string(index=False, float_format='{:.2f}'.format)}", flush=True)


def main() -> None:
    """Print all parts; the exit status tells whether all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of fuzzing each target (default: 5)")
    parser.add_argument("--times", type=int, default=1, help="that each work is stopped by each signal (default: 1)")
    parser.add_argument("--requests", type=int, default=3000, help="of the load (default: 3000)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [*bad_files(), wrong_arguments()]
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "what"}
    shown("bad inputs", [*rows, {"what": "all", **total}])
    fuzzed = trust_fuzz.table(options.seconds)
    shown("fuzzed", fuzzed)
    stopped = list(trust_stops.stops(options.times))
    shown("interrupted", stopped)
    print("\nload")
    asked, *stages = trust_load.loaded(options.requests)
    well = total["foreign"] == total["slow"] == 0 and not any(row["findings"] for row in fuzzed)
    well = well and all(map(trust_stops.well, stopped)) and asked["wrong"] == asked["late"] == 0
    well = well and all(stage["memory_ratio"] <= 1.3 for stage in stages)
    sys.exit(not well)


if __name__ == "__main__":
    main()
