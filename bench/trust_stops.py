"""Whether what is stopped leaves nothing behind, and goes on: work is interrupted and killed at random moments, then done again.

python bench/trust_stops.py               each work is stopped 3 times by Ctrl-C and 3 times by SIGKILL
python bench/trust_stops.py --times 50    50 times

Printed is a row for each work and signal. "ended" counts tries that ended by the signal: with exit code 130, or by the signal
itself before a line of ours was run; "before" those that were done by then. Of what is left, "half" counts tries after which a
result was there that is not whole, "processes" those after which a process lived on, and "temporary" those after which files were
left that are no results: after a SIGKILL nobody can take them away. "same" counts tries after which the same command ended well
with what an undisturbed one gives: to the last digit for noise, for hashes of parts and for answers, and in all but measured
seconds for the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import nbformat
import numpy as np
import onnx
import pandas as pd
import psutil
from deploy_cut import in_thirds
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.cutting.bundle import FILE
from dnnsplit.ground.files import sha256
from dnnsplit.profiling.times import LayerTimes

MARK = "DNNSPLIT_TRUST"  # a variable of the environment that tells our processes
SIGNALS = (signal.SIGINT, signal.SIGKILL)
BY = {signal.SIGINT: (130, -signal.SIGINT), signal.SIGKILL: (-signal.SIGKILL,)}  # exit codes
PATIENCE_S = 120.0  # for what was stopped to end
GONE_S = 20.0  # for those that it had started
LATENCY = """
import sys
try:
    import numpy as np, dnnsplit as ds
    from dnnsplit.ground.files import replacing
    folder, out = sys.argv[1:]
    bundle = ds.Bundle.load(f"{folder}/bundle")
    servers = bundle.servers
    links = [ds.Link(a, b, 5e6, 0.005) for a in servers for b in servers if a != b]
    network = ds.Network([ds.Server(name) for name in servers], links, "device")
    x = np.load(f"{folder}/images.npy")[:1]
    with ds.testbed(bundle, network, dict.fromkeys(bundle.stages, 2.0)) as client:
        ds.latency_test(client, {"x": x}, repeats=5, progress=False)
        answers = client.infer({"x": x})
    with replacing(f"{out}/answers.npz") as file:
        np.savez(file, **answers)
except KeyboardInterrupt:
    sys.exit(130)
"""


@dataclass(frozen=True)
class Work:
    """Something that takes a few seconds and leaves results.

    Attributes
    ----------
    command : Callable[[Path], Sequence[str]]
        What is run for results in a folder.
    results : Callable[[Path], Any]
        What is in the folder, without measured seconds, or None where there is no result; an error if it is not whole.
    ours : tuple[str, ...]
        Patterns of files that may be left in the folder when it is stopped: results, and what the next run goes on from.
    """

    command: Callable[[Path], Sequence[str]]
    results: Callable[[Path], Any]
    ours: tuple[str, ...]


def works(folder: Path) -> dict[str, Work]:
    """Return each work, on a small model that is made in a folder."""
    model, images, plan = _model(folder / "small.onnx"), folder / "images.npy", folder / "plan.json"
    np.save(images, np.random.default_rng(1).random((16, 3, 32, 32), np.float32))
    in_thirds(model).save(plan)
    ds.cut(model, ds.Plan.load(plan), folder / "bundle", images=np.load(images))
    (folder / "notebooks").mkdir()
    cells = ["x = 2  # a number", "import time\nimport dnnsplit as ds\ntime.sleep(1)", "ds.publish(y=x ** 10)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "notebooks" / "small.ipynb")
    on = [str(model), "--images", str(images)]
    dnnsplit = [sys.executable, "-m", "dnnsplit"]
    return {
        "profile": Work(
            lambda out: [*dnnsplit, "profile", *on, "--server", "device", "-o", f"{out}/times.csv",
                         "--runs", "6", "--splits", "3", "--layers", "3"], _times, ("times.csv", "times.forms.csv"),
        ),
        "noise": Work(
            lambda out: [*dnnsplit, "noise", *on, "-o", f"{out}/noise.csv", "--layers", "4"],
            _noise, ("noise.csv", "noise.journal.npz"),
        ),
        "cut": Work(
            lambda out: [*dnnsplit, "cut", *on, str(plan), "-o", f"{out}"], _bundle,
            ("bundle.json", "part*", "small*"),
        ),
        "run": Work(
            lambda out: [*dnnsplit, "run", f"{folder}/notebooks/small.ipynb", "-o", f"{out}"], _run, ("small", "small.csv"),
        ),
        "latency test": Work(
            lambda out: [sys.executable, "-c", LATENCY, f"{folder}", f"{out}"], _answers, ("answers.npz",),
        ),
    }  # fmt: skip


def _model(path: Path) -> Path:
    """Write a chain of convolutions; return its path."""
    rng, source, nodes, weights = np.random.default_rng(0), "x", [], []
    for i, inside in enumerate((3, 8, 8, 8)):
        weights.append(numpy_helper.from_array(rng.normal(0, 0.2, (8, inside, 3, 3)).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [source, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"))
        source = f"r{i}"
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 32, 32])] for n, c in (("x", 3), (source, 8))]
    graph = helper.make_graph(nodes, "small", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _times(out: Path) -> Any:
    if not (out / "times.csv").exists():
        return None
    times = LayerTimes.load(out / "times.csv")
    assert times.forms is not None, "times without forms"
    keys = ["layer", "server", "precision", "origin"]
    return times.frame[keys].values.tolist(), times.forms.frame[["tensor", "precision", "form", "server"]].values.tolist()


def _noise(out: Path) -> Any:
    if not (out / "noise.csv").exists():
        return None
    samples = ds.NoiseSamples.load(out / "noise.csv")
    return samples.frame.to_csv(index=False), json.dumps(samples.origin["calibration"])


def _bundle(out: Path) -> Any:
    if not (out / FILE).exists():
        return None
    ds.Bundle.load(out)
    return {path.relative_to(out).as_posix(): sha256(path) for path in sorted(out.rglob("*")) if path.is_file()}


def _run(out: Path) -> Any:
    if not (out / "small" / "run.json").exists():
        return None
    row = json.loads((out / "small" / "run.json").read_text())["row"]
    nbformat.read(out / "small" / "small.ipynb", 4)
    return row["status"], row["results"]


def _answers(out: Path) -> Any:
    if not (out / "answers.npz").exists():
        return None
    with np.load(out / "answers.npz") as file:
        return {name: file[name].tolist() for name in file.files}


def tried(work: Work, number: signal.Signals, moment_s: float, good: Any, usual: Sequence[str]) -> dict[str, int]:
    """Stop a work after so long, look at what is left, and do it again; return what is to be counted.

    Files called as some of `usual` are left for temporary ones by libraries when nobody stops the work, too.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, temporary, mark = Path(folder, "out"), Path(folder, "tmp"), uuid4().hex
        out.mkdir()
        temporary.mkdir()
        with _started(work.command(out), temporary, mark) as process:
            time.sleep(moment_s)
            before = process.poll() is not None
            if not before:
                (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)  # Ctrl-C reaches all of a group
            code, error = _ended(process)
        left = _left(mark)
        half = not _is_whole(work, out, good)
        strange = [p for p in out.iterdir() if not any(p.match(pattern) for pattern in work.ours)]
        strange += [p for p in temporary.iterdir() if p.name not in usual]
        found = {"before": before, "ended": not before and _is_right(number, code, error), "half": half}
        found |= {"processes": bool(left), "temporary": bool(strange)}
        _tell(number, moment_s, code, error, left, strange, before, half)
        with _started(work.command(out), temporary, mark) as process:
            code, error = _ended(process)
        found["same"] = code == 0 and not _left(mark) and _is_whole(work, out, good, there=True)
        if not found["same"]:
            print(f"  again: {code} {error[-500:]}", file=sys.stderr)
        return {key: int(value) for key, value in found.items()}


def _is_right(number: signal.Signals, code: int, error: str) -> bool:
    """Whether a process ended as it should: by the signal, in our words; or as Python's own start ends, before a line of ours."""
    if "Traceback" in error and str(Path(ds.__file__).parent) not in error:
        return number == signal.SIGINT and error.rstrip().endswith("KeyboardInterrupt")
    return code in BY[number] and "Traceback" not in error


def _tell(
    number: signal.Signals, moment_s: float, code: int, error: str, left: Sequence[Any], strange: Sequence[Path], before: bool,
    half: bool,
) -> None:  # fmt: skip
    """Tell the details of a try that is not as it should be."""
    last = error.strip().splitlines()[-1:] or [""]
    names = [path.name for path in strange] if number == signal.SIGINT else []
    if not (before or _is_right(number, code, error)) or left or names or half:
        told = f"{number.name} after {moment_s:.2f} s: exit code {code}, {last[0][:150]!r}"
        print(f"  {told}; left: {[p.info['cmdline'][:4] for p in left]} {names} {'half' if half else ''}", file=sys.stderr)


def _started(command: Sequence[str], temporary: Path, mark: str) -> subprocess.Popen[str]:
    environment = os.environ | {MARK: mark, "TMPDIR": str(temporary), "JUPYTER_RUNTIME_DIR": str(temporary / "jupyter")}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a process; return its exit code and what it said, and kill it where it does not end."""
    try:
        error = process.communicate(timeout=PATIENCE_S)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return 124, process.communicate()[1]
    return process.returncode, error


def _left(mark: str) -> list[psutil.Process]:
    """Return the processes that have a mark after a while, and end them."""
    limit = time.monotonic() + GONE_S
    while (left := _marked(mark)) and time.monotonic() < limit:
        time.sleep(0.1)
    for process in left:
        process.kill()
    return left


def _marked(mark: str) -> list[psutil.Process]:
    running = psutil.process_iter(["environ", "status", "cmdline"])
    ours = [p for p in running if (p.info["environ"] or {}).get(MARK) == mark]
    return [p for p in ours if p.info["status"] != psutil.STATUS_ZOMBIE]


def _is_whole(work: Work, out: Path, good: Any, there: bool = False) -> bool:
    """Whether results are as they are undisturbed, or, unless they have to be there, are not there."""
    try:
        found = work.results(out)
    except Exception as error:  # whatever is wrong with results makes them half of some
        print(f"  not whole: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return found == good if there or found is not None else True


def stops(times: int = 3, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield a row for each work and signal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would all these
    with tempfile.TemporaryDirectory() as folder:
        for name, work in works(Path(folder)).items():
            if only and name not in only:
                continue
            out, temporary = Path(folder, "good"), Path(folder, "temporary")
            out.mkdir()
            temporary.mkdir()
            start = time.monotonic()
            with _started(work.command(out), temporary, uuid4().hex) as process:
                code, error = _ended(process)
            usual_s, good = time.monotonic() - start, work.results(out)
            if code or good is None:
                raise RuntimeError(f"{name} ends with {code}: {error[-1000:]}")
            usual = [path.name for path in temporary.iterdir()]
            shutil.rmtree(out)
            shutil.rmtree(temporary)
            for number in SIGNALS:
                counts = [tried(work, number, random.uniform(0, 0.8 * usual_s), good, usual) for _ in range(times)]
                sums = {key: sum(one[key] for one in counts) for key in counts[0]}
                yield {"work": name, "signal": number.name, "usual_s": usual_s, "tries": times, **sums}


def well(row: dict[str, Any]) -> bool:
    """Whether a row is as it should be."""
    left = row["half"] + row["processes"] + (row["temporary"] if row["signal"] == "SIGINT" else 0)
    return row["ended"] + row["before"] == row["tries"] == row["same"] and not left


def main() -> None:
    """Print the table; the exit status tells whether all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="how often each work is stopped by each signal (default: 3)")
    parser.add_argument("--only", action="append", default=[], help="a work (repeatable; default: all)")
    options = parser.parse_args()
    rows = []
    for row in stops(options.times, options.only):
        print({key: value for key, value in row.items() if key != "usual_s"}, file=sys.stderr)
        rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.1f}".format))
    sys.exit(not all(map(well, rows)))


if __name__ == "__main__":
    main()
