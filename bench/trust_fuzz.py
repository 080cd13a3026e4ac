"""Whether anything from outside can do more than be refused: loaders and the reader of messages are fuzzed.

python bench/trust_fuzz.py                              each target for 20 s
python bench/trust_fuzz.py --seconds 600 --only onnx    one target for 10 minutes

Printed is a row for each target and way of fuzzing: executions, how many inputs were taken and refused, and findings; and a row
for each finding, with the file of its input. A finding is an error that is none of dnnsplit's own, a call that takes more than
5 s of CPU or 1 GB of memory, or the end of the process. The ways are hypothesis, which changes good inputs by their form, and
atheris, which is guided by what is reached in dnnsplit; it is an extra, and left out where it is missing.
Inputs that were read wrongly once are kept in tests/corpus, and begun with.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, Phase, given, seed, settings
from trust_inputs import inputs
from trust_targets import Target, targets

import dnnsplit as ds
from dnnsplit.ground.files import sha256, write_bytes

NAMES = (
    "network", "hosts", "sweep", "plan", "bundle", "plan-set", "stage", "profile", "forms", "noise", "instance", "onnx", "wire",
    "record", "picture", "preprocess",
)  # fmt: skip
GUIDED = ("network", "sweep", "plan", "bundle", "onnx", "wire")
OUT = Path("data/runs/fuzz")
LIMIT_S = 5.0  # of CPU for one call
STUCK_S = 90.0  # of wall time, after which a process that says nothing is ended
MOST_BYTES = 2**30  # of memory that calls add
ROOM_BYTES = 2**33  # what a process may allocate at all
PHASES = (Phase.generate,)
BATCH = 500  # examples of one strategy
WITHOUT = "atheris is not installed, so nothing is guided by coverage; on Linux, pip install 'dnnsplit[fuzz]' brings it"
START = {
    "hypothesis": "import sys, trust_fuzz; trust_fuzz.with_hypothesis(*sys.argv[1:])",
    # what is to be watched has to be imported while atheris looks
    "atheris": "import sys, atheris\nwith atheris.instrument_imports(include=['dnnsplit']): import trust_fuzz\n"
    "trust_fuzz.with_atheris(*sys.argv[1:])",
}


class TooLong(BaseException):
    """A call took more CPU than it may."""


class Watch:
    """Calls a target, counts, and keeps an input of each finding; `folder` tells its counts to who started the process."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.folder = target, folder
        self.counts, self.found = {"executions": 0, "taken": 0, "refused": 0}, dict[str, dict[str, str]]()
        self.told, self.peak = 0.0, _peak_bytes()

    def __call__(self, content: bytes) -> None:
        """Give one input to the target."""
        (self.folder / "input").write_bytes(content)
        self.counts["executions"] += 1
        try:
            signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
            try:
                self.target.read(content)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            self.counts["taken"] += 1
        except ds.DnnSplitError:
            self.counts["refused"] += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._find(f"{type(error).__name__}: {error}", _place(error), content)
        if (peak := _peak_bytes()) > self.peak + MOST_BYTES:
            self._find(f"{(peak - self.peak) / 1e9:.1f} GB of memory", "", content)
            self.peak = peak
        if time.monotonic() > self.told + 1:
            self.tell()

    def tell(self) -> None:
        """Write what was counted."""
        (self.folder / "counts").write_text(json.dumps({"counts": self.counts, "found": [*self.found.values()]}))
        self.told = time.monotonic()

    def _find(self, what: str, where: str, content: bytes) -> None:
        key = f"{what.split(':', maxsplit=1)[0]} {where}"
        if key not in self.found or len(content) < int(self.found[key]["bytes"]):
            kept = write_bytes(self.folder / f"{sha256(key)[:10]}", content)
            self.found[key] = {"what": what[:200], "where": where, "bytes": str(len(content)), "input": str(kept)}
            self.tell()


def with_hypothesis(name: str, seconds: str, folder: str) -> None:
    """Fuzz one target in this process, with inputs by their form."""
    watch, _ = _begin(name, Path(folder))
    for content in watch.target.seeds:
        watch(content)
    end, batch = time.monotonic() + float(seconds), int(time.time())
    plain = settings(max_examples=BATCH, database=None, deadline=None, phases=PHASES, suppress_health_check=[*HealthCheck])
    while time.monotonic() < end:
        batch += 1

        @plain
        @seed(batch)
        @given(inputs(watch.target.form, watch.target.seeds))
        def give(content: bytes) -> None:
            if time.monotonic() < end:
                watch(content)

        give()
    watch.tell()


def with_atheris(name: str, seconds: str, folder: str) -> None:
    """Fuzz one target in this process, guided by what its inputs reach."""
    import atheris

    with atheris.instrument_imports(include=["dnnsplit"]):
        watch, seeds = _begin(name, Path(folder))
    atheris.Setup(["trust_fuzz", f"-max_total_time={float(seconds):.0f}", "-rss_limit_mb=0", "-max_len=20000", str(seeds)], watch)
    atheris.Fuzz()


def _begin(name: str, folder: Path) -> tuple[Watch, Path]:
    """Return the watch of a target, and a folder with its seeds; limit what the process may take."""
    work = Path(tempfile.mkdtemp(dir=folder))
    target = targets(work)[name]
    (seeds := work / "seeds").mkdir()
    for i, content in enumerate(target.seeds):
        (seeds / str(i)).write_bytes(content)
    signal.signal(signal.SIGPROF, _too_long)
    resource.setrlimit(resource.RLIMIT_DATA, (ROOM_BYTES, ROOM_BYTES))
    return Watch(target, folder), seeds


def _too_long(*_: Any) -> None:
    raise TooLong(f"more than {LIMIT_S:g} s of CPU")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _place(error: BaseException) -> str:
    """Return the innermost line of dnnsplit that an error came through, or that of the target."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "dnnsplit" in Path(frame.filename).parts] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def fuzz_one(name: str, way: str, seconds: float, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the row of a target that is fuzzed in processes of its own, and its findings."""
    totals, found = {"executions": 0, "taken": 0, "refused": 0}, dict[str, dict[str, Any]]()
    start = time.monotonic()
    while (left := start + seconds - time.monotonic()) > 0 or not totals["executions"]:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
            code = _run(name, way, max(left, 1.0), Path(folder), log)
            told = json.loads(file.read_text()) if (file := Path(folder, "counts")).is_file() else {"counts": {}, "found": []}
            for key, count in told["counts"].items():
                totals[key] += count
            rows = [{**row, "content": Path(row["input"]).read_bytes()} for row in told["found"]]
            if code:
                log.seek(0)
                last = log.read().decode(errors="replace").strip().splitlines()[-1:]
                if code == 1 or not told["counts"]:  # an error of ours: those of a target are caught
                    raise RuntimeError(f"{name} cannot be fuzzed: {last}")
                what = f"the process ended with {code}: {''.join(last)}"[:200]
                rows.append({"what": what, "where": str(code), "content": Path(folder, "input").read_bytes()})
            for row in rows:
                found.setdefault(f"{row['what'].split(':')[0]} {row['where']}", row)
    findings = []
    for key, row in found.items():
        kept = write_bytes(out / f"{name}-{sha256(key)[:10]}", row["content"])
        findings.append({"target": name, "by": way, "what": row["what"], "where": row["where"], "input": str(kept)})
    took = time.monotonic() - start
    return {"target": name, "by": way, **totals, "per_s": totals["executions"] / took, "findings": len(findings)}, findings


def _run(name: str, way: str, seconds: float, folder: Path, log: Any) -> int:
    """Fuzz in a process until it ends; return its exit code, or -9 for one that says nothing for too long."""
    command = [sys.executable, "-c", START[way], name, str(seconds), str(folder)]
    with subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parent) as process:
        began = time.time()
        try:
            while process.poll() is None:
                time.sleep(0.1)
                with suppress(FileNotFoundError):
                    began = max(began, (folder / "input").stat().st_mtime)
                if time.time() > began + STUCK_S:
                    process.kill()
        except BaseException:
            process.kill()
            raise
    return process.returncode


def fuzz(seconds: float = 20.0, only: Sequence[str] = NAMES, out: Path = OUT) -> Iterator[tuple[Any, Any]]:
    """Yield the row and the findings of each target and way."""
    ways = ["hypothesis", *(["atheris"] if importlib.util.find_spec("atheris") else [])]
    for name in only:
        for way in ways:
            if way == "hypothesis" or name in GUIDED:
                yield fuzz_one(name, way, seconds, out)


def table(seconds: float = 20.0) -> list[dict[str, Any]]:
    """Return the row of each target and way, as it is printed."""
    return [row for row, _ in fuzz(seconds)]


def main() -> None:
    """Print both tables; the exit status tells whether nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each target and way (default: 20)")
    parser.add_argument("--only", action="append", choices=NAMES, help="a target (repeatable; default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("data/runs/fuzz"), help="folder for inputs of findings (default: data/runs/fuzz)"
    )
    options = parser.parse_args()
    if not importlib.util.find_spec("atheris"):
        print(WITHOUT)
    rows, findings = [], []
    for row, some in fuzz(options.seconds, options.only or NAMES, options.out):
        print(f"{row['target']} by {row['by']}: {row['executions']} executions, {row['findings']} findings", file=sys.stderr)
        rows.append(row)
        findings += some
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.1f}".format))
    if findings:
        print(pd.DataFrame(findings).to_string(index=False))
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
