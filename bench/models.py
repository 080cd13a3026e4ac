"""Whether models as people have them go through the whole line, file by file, and what each stage of it costs.

    python bench/models.py FOLDER                 every .onnx file below a folder
    python bench/models.py FOLDER --shapes FILE   YAML: pattern of file names -> {input: shape}, for models that leave shapes open
    python bench/models.py FOLDER --only "*det*"  files of that path below the folder

The line is: load, noise of three layers, profile, front, cut in three, run on the emulated test-bed, compare with ONNX Runtime
on the file as it is. Every file has a process of its own, so that what ends that process is a row as well. Shapes that a model
leaves open and nobody gives are made up, and the row says which. A row has the CPU seconds of a stage, with those of processes
that it started, and the peak of its own process' resident memory. The exit status is 0 if every file is through or was refused
by `load` in words.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import traceback
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import psutil
import yaml
from open_shapes import Shape, made_up_shapes, zeros_like_inputs

import dnnsplit as ds
from dnnsplit.graph.feeds import made_up
from dnnsplit.ground.differences import TINY, absolute, magnitude

SERVERS = {"device": 0.5, "edge": 1.0, "cloud": 4.0}  # speeds in CPUs
LAYERS, RUNS, SPLITS = 3, 2, 3
TIMEOUT_S = 300.0
SAME = 1e-5  # relative to the largest value of an output
STAGES = ("shapes", "load", "noise", "profile", "front", "cut", "run", "compare")
NEEDED = ("load", "cut", "run")  # nothing follows where one of these fails
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Row:
    """What became of a stage of a file.

    `outcome` is ok, refused (an error of ours), TRACEBACK (any other) or ended (the process did); `note` is what the stage gave
    or the error; `difference` is that of the outputs, relative to the largest of each.
    """

    file: str
    stage: str
    outcome: str
    note: str
    cpu_s: float = np.nan
    peak_mb: float = np.nan
    difference: float = np.nan

    def __str__(self) -> str:
        outcome = "" if self.outcome == "ok" else f"{self.outcome} "
        return f"{self.file:60} {self.stage:8} {self.cpu_s:8.2f} s {self.peak_mb:7.0f} MB  {outcome}{self.note}"


class Line:
    """A file on its way; each stage is a method that returns what to note, and finds what those before it left."""

    def __init__(self, path: Path, given: Shapes, folder: Path) -> None:
        self.path, self.given, self.folder = path, dict(given), folder
        self.original: onnxruntime.InferenceSession | None = None
        self.calibration: ds.Calibration | None = None
        self.measured = self.noises = ds.NoiseModel.polynomial((), {})  # the second: of layers that have times in int8
        self.difference = np.nan

    def shapes(self) -> str:
        """Sizes for what the file leaves open."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.original = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        if self.given:
            return f"given: {told(self.given)}"
        self.given = made_up_shapes(self.original)
        return f"made up: {told(self.given)}" if self.given else "as in the file"

    def load(self) -> str:
        """Read it, with one inference that it accepts."""
        self.graph = ds.load(self.path, shapes=self.given or None)
        self.feed = made_up(self.graph.model)
        links = [ds.Link(a, b, 1e9, 0.0001) for a in SERVERS for b in SERVERS if a != b]
        self.network = ds.Network([ds.Server(name, speed_cpu=speed) for name, speed in SERVERS.items()], links, "device")
        # until they are measured
        self.times = ds.joined(*(ds.flops_times(self.graph, server, 1e10, 1e10) for server in SERVERS))
        return "; ".join([f"{len(self.graph.layers)} layers", *self.graph.notes])

    def noise(self) -> str:
        """Noise of every scheme of a few layers."""
        calibration = ds.calibrate(self.graph, self.feed)
        samples = ds.measure_noise(self.graph, self.feed, LAYERS, calibration=calibration, progress=False)
        self.calibration, self.measured = calibration, ds.fit_noise(samples, "measured")
        return "; ".join([f"at most {samples.noise.max():.3g} of {', '.join(samples.layers)}", *samples.origin.get("notes", [])])

    def profile(self) -> str:
        """Times of the layers, in int8 too where there is noise of them."""
        self.times = ds.profile(self.graph, self.network, self.feed, self.calibration, self.measured.layers, runs=RUNS,
                                splits=SPLITS, progress=False)  # fmt: skip
        self.noises = self.measured
        return f"{1e3 * self.times.seconds_of('edge'):.3g} ms on the edge"

    def front(self) -> str:
        """Latency against noise."""
        return f"{len(ds.pareto(self.graph, self.network, self.times, self.noises, progress=False).plans)} plans"

    def cut(self) -> str:
        """Three servers in float32, each with a third of the layers in their topological order."""
        order = self.graph.topological
        pins = {layer: list(SERVERS)[len(SERVERS) * i // len(order)] for i, layer in enumerate(order)}
        self.bundle = ds.cut(self.graph, ds.split(self.graph, self.network, self.times, pins=pins), self.folder)
        return f"{len(self.bundle.parts)} parts, {len(self.bundle.wires)} tensors"

    def run(self) -> str:
        """One inference of the parts as processes that talk to each other."""
        with ds.testbed(self.bundle, self.network, deadline_s=120.0) as client:
            self.found = client.infer(self.feed)
        return f"{len(self.found)} outputs"

    def compare(self) -> str:
        """The outputs against those of the file as it is, in one session."""
        assert self.original is not None, "what `load` reads ONNX Runtime reads, too"
        read = {value.name for value in self.original.get_inputs()}
        feed = zeros_like_inputs(self.original, self.given) | {name: v for name, v in self.feed.items() if name in read}
        names = [value.name for value in self.original.get_outputs()]
        wanted = dict(zip(names, self.original.run(names, feed), strict=True))
        self.difference = max(difference(self.found[name], wanted[name]) for name in names)
        if not self.difference <= SAME:
            message = f"an output differs by {self.difference:.3g} of its largest value, which is more than {SAME:g}"
            raise ds.DnnSplitError(message)
        return f"differs by {self.difference:.2g}"


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The greatest difference relative to the largest value; infinite where shapes or texts differ."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape:
        return np.inf
    if wanted.dtype.kind not in "biuf":
        return 0.0 if (found == wanted).all() else np.inf
    return float(absolute(found, wanted).max(initial=0.0) / max(magnitude(wanted).max(initial=0.0), TINY))


def told(shapes: Shapes) -> str:
    """Shapes in words."""
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items())


def of_error(error: Exception) -> tuple[str, str]:
    """Outcome and note of an error: ours by its first sentence and detail, any other by where it came from."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, ds.DnnSplitError):
        return "refused", " ".join(line.strip() for line in lines[:2])
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "TRACEBACK", f"{type(error).__name__}: {lines[0][:200]} | {Path(last.filename).name}:{last.lineno}"


def measured(file: str, stage: str, work: Callable[[], str]) -> Row:
    """Run a stage."""
    forget_peak()
    before = cpu_seconds()
    try:
        outcome, note = "ok", work()
    except Exception as error:  # whatever it is, it is a row
        outcome, note = of_error(error)
    return Row(file, stage, outcome, note, cpu_seconds() - before, peak_mb())


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def forget_peak() -> None:
    """Let the peak of this process' memory begin anew, where the system can; elsewhere it is that of all stages so far."""
    if (file := Path("/proc/self/clear_refs")).exists():
        file.write_text("5")


def peak_mb() -> float:
    """Peak of the resident memory of this process [MB]."""
    if (file := Path("/proc/self/status")).exists():
        return int(file.read_text().partition("VmHWM:")[2].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def go(path: Path, file: str, given: Shapes, sender: Connection) -> None:
    """All stages of a file, in a process of their own."""
    onnxruntime.set_default_logger_severity(4)
    with tempfile.TemporaryDirectory() as folder:
        line = Line(path, given, Path(folder))
        for stage in STAGES:
            row = measured(file, stage, getattr(line, stage))
            sender.send(replace(row, difference=line.difference) if stage == "compare" else row)
            if stage in NEEDED and row.outcome != "ok":
                return


def rows_of(path: Path, file: str, given: Shapes, timeout_s: float) -> Iterator[Row]:
    """Rows of a file; what ends its process, or lasts too long, is the last of them."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=go, args=(path, file, given, sender))
    child.start()
    sender.close()
    for stage in STAGES:
        try:
            row = receiver.recv() if receiver.poll(timeout_s) else Row(file, stage, "ended", f"it took more than {timeout_s:g} s")
        except EOFError:
            child.join()
            row = Row(file, stage, "ended", f"the process ended with exit code {child.exitcode}")
        yield row
        if row.outcome == "ended" or (stage in NEEDED and row.outcome != "ok"):
            break
    end(child.pid)
    child.join()


def end(pid: int | None) -> None:
    """End a process that was started here, and all that it started."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            one.kill()


def summary(rows: list[Row]) -> tuple[str, bool]:
    """What became of the files, and whether each is through or was refused at load."""
    files = {row.file: [r for r in rows if r.file == row.file] for row in rows}
    stopped = {file: row for file, own in files.items() for row in own if row.stage == "load" and row.outcome == "refused"}
    bad = {file: [row for row in own if row.outcome != "ok"] for file, own in files.items() if file not in stopped}
    failed = {file: own for file, own in bad.items() if own}
    through = len(files) - len(stopped) - len(failed)
    worst = max((row for row in rows if not np.isnan(row.difference)), key=lambda row: row.difference, default=None)
    lines = [f"{through} of {len(files)} files ({through / len(files):.0%}) went through the whole line"]
    if worst:
        lines.append(f"greatest difference from ONNX Runtime: {worst.difference:.2g} ({worst.file}); to reach {SAME:g}")
    lines += [f"{len(stopped)} refused at load:", *(f"  {file}: {row.note}" for file, row in stopped.items())]
    lines += [
        f"{len(failed)} others:",
        *(f"  {file}: {row.stage}: {row.outcome} {row.note}" for file, own in failed.items() for row in own),
    ]
    return "\n".join(lines), not failed


def given_shapes(path: str) -> dict[str, Shapes]:
    """The file of --shapes: shapes of inputs by pattern of file names."""
    try:
        patterns = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        return {pattern: {name: tuple(map(int, shape)) for name, shape in own.items()} for pattern, own in patterns.items()}
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        message = f"{path} is no YAML of the form 'pattern: {{input: [1, 3, 640, 640]}}': {error}"
        raise argparse.ArgumentTypeError(message) from None


def main() -> None:
    """Print a row per file and stage, and what became of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shapes", type=given_shapes, default={}, metavar="FILE", help="by pattern of file names")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of the path below the folder")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="limit on each stage")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows there, too")
    options = parser.parse_args()
    paths = {str(path.relative_to(options.folder)): path for path in sorted(options.folder.rglob("*.onnx"))}
    paths = {file: path for file, path in paths.items() if fnmatch(file, options.only)}
    if not paths:
        parser.error(f"there is no .onnx file of the pattern {options.only!r} below {options.folder}")
    rows = []
    for file, path in paths.items():
        given = [own for pattern, own in options.shapes.items() if fnmatch(path.name, pattern)]
        for row in rows_of(path, file, dict(ChainMap(*given)), options.timeout):
            print(row, flush=True)
            rows.append(row)
    if options.csv:
        pd.DataFrame(map(asdict, rows)).to_csv(options.csv, index=False)
    text, good = summary(rows)
    print(f"\n{text}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
