"""The work that others ask of an agent, in a child process each: profile a model on its machine, measure noise or its power.

A job has the name of what it is made from, so that what is known is not measured again; an interrupted one is done anew, or goes
on where it keeps a journal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dnnsplit.agents.accepted import check_accepted
from dnnsplit.agents.machine import turn_to_measure
from dnnsplit.agents.pool import Pool
from dnnsplit.agents.stages import TAIL_LINES
from dnnsplit.deployment.stage.process import child_environment, follow, limit_memory
from dnnsplit.examples.shipped import load_images
from dnnsplit.graph.blocks import load
from dnnsplit.graph.feeds import made_up
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import DeployError, DnnSplitError, nearest
from dnnsplit.ground.files import sha256, write_json
from dnnsplit.ground.huge_pages import with_huge_pages
from dnnsplit.noise.measure import measure_noise
from dnnsplit.profiling.elsewhere import profile_here
from dnnsplit.profiling.power import measure_power
from dnnsplit.quantize.calibration import calibrate

RESULT, SPEC, OUT, MODEL = "result.json", "job.json", "out", "model"
RUNS, SPLITS = 20, 6  # of a profile: most runs of the whole model, and random splits whose parts are measured
IMAGES = 16  # to calibrate on, at most
NOISE_IMAGES = 4
WINDOW_S, PAIRS = 1.0, 5  # in which energy is counted, and pairs of these windows, at most


class Jobs:
    """The jobs of one agent, one running at a time.

    Parameters
    ----------
    folder : Path
        Where they are kept, a folder each.
    pool : Pool
        Where the files they need are, and their results go.
    facts : Mapping[str, Any]
        Of the machine: a result of another one is none of this.
    told : Callable[[], None]
        Called whenever one ends.
    memory_bytes : int | None
        That one may use [B].
    """

    def __init__(
        self, folder: Path, pool: Pool, facts: Mapping[str, Any], told: Callable[[], None], memory_bytes: int | None
    ) -> None:
        self.memory_bytes = memory_bytes
        self.folder, self.pool, self.facts, self._told = folder, pool, dict(facts), told
        self._running: dict[str, subprocess.Popen[bytes] | None] = {}
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._ended = False

    def do(self, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Start a job unless it is done or running; return its state: ``running``, ``done`` with files, or ``failed`` with why.

        Raises
        ------
        DeployError
            There are no such jobs, or a file is not here.
        """
        if kind not in KINDS:
            message = f"no job is called {kind!r}{nearest(kind, KINDS)}"
            raise DeployError(message)
        about = {key: self.facts[key] for key in ("cpu", "cpu_quota", "machine")} if kind != "noise" else {}
        about = {"kind": kind, "given": dict(given), "version": VERSION, **about}
        folder = self.folder / sha256(json.dumps(about, sort_keys=True))[:32]
        with self._lock:
            if folder.name in self._running:
                return {"state": "running", "since_s": time.time() - (folder / SPEC).stat().st_mtime}
            if (folder / RESULT).is_file():
                found: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
                if found["state"] == "done" and all(self.pool.held(digest) == -1 for digest in found["files"].values()):
                    return found
                (folder / RESULT).unlink()
                if found["state"] == "failed":  # which is told once, and tried again when it is asked for again
                    return found
            self.pool.lay_out(given["files"], folder / MODEL)
            write_json(folder / SPEC, about)
            self._running[folder.name] = None
        threading.Thread(target=self._run, args=(folder,), name=f"job {kind}", daemon=True).start()
        return {"state": "running", "since_s": 0.0}

    def running(self) -> list[str]:
        """Return the kinds of the jobs that have not ended."""
        with self._lock:
            folders = [self.folder / name for name in self._running]
        return [json.loads((folder / SPEC).read_text(encoding="utf-8"))["kind"] for folder in folders]

    def end(self) -> None:
        """End all jobs."""
        with self._lock:
            self._ended = True
            children = [child for child in self._running.values() if child]
        for child in children:
            child.kill()
            child.wait()

    def _run(self, folder: Path) -> None:
        with self._turn:
            if not self._ended:
                result = self._result(folder)
                if not self._ended:
                    write_json(folder / RESULT, result)
        with self._lock:
            del self._running[folder.name]
        self._told()

    def _result(self, folder: Path) -> dict[str, Any]:
        with (folder / "stderr").open("wb") as err:
            child = subprocess.Popen(
                [sys.executable, "-m", "dnnsplit.agents.jobs", str(folder), str(os.getpid()), str(self.memory_bytes or 0)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err, env=with_huge_pages(child_environment(), True),
            )  # fmt: skip
        with self._lock:
            self._running[folder.name] = child
        code = child.wait()
        lines = (folder / "stderr").read_text(encoding="utf-8", errors="replace").splitlines()
        if code == 0:
            try:
                files = {path.name: self.pool.add(path) for path in sorted((folder / OUT).iterdir())}
            except DeployError as error:
                return {"state": "failed", "problem": str(error)}
            return {"state": "done", "files": files}
        why = "\n".join(lines[-TAIL_LINES:]) or (f"signal {-code}" if code < 0 else f"exit code {code}")
        return {"state": "failed", "problem": why}


def _graph(folder: Path, given: Mapping[str, Any]) -> tuple[LayerGraph, Path | None]:
    """Read the model, once it is clear that it may be run, and return the file of images, if there is one."""
    model, names = folder / given["model"], given["files"]
    check_accepted(model, [name for name in names if name != given["model"]])
    shapes = {name: tuple(shape) for name, shape in given["shapes"].items()}
    images = folder / given["images"] if given["images"] else None
    return load(model, [given["provider"]], shapes=shapes or None), images


def _profile(folder: Path, graph: LayerGraph, images: Path | None, given: Mapping[str, Any]) -> None:
    feed = made_up(graph.model) if images is None else load_images(images, min(IMAGES, given["count"]), start=0, graph=graph)
    effort = {"runs": RUNS, "splits": SPLITS, "provider": given["provider"], "forms": images is not None}
    with turn_to_measure():
        times = profile_here(graph, given["server"], feed, given["layers"], progress=False, setting=given["setting"], **effort)
    times.save(folder / OUT / "times.csv")


def _noise(folder: Path, graph: LayerGraph, images: Path | None, given: Mapping[str, Any]) -> None:
    count = min(IMAGES, given["count"])
    calibration = calibrate(graph, load_images(images or "", count, start=0, graph=graph), given["setting"])
    some = min(NOISE_IMAGES, given["count"])
    pictures = load_images(images or "", some, start=given["count"] - some, graph=graph)
    samples = measure_noise(
        graph, pictures, given["layers"], calibration=calibration, budget=given["budget"], progress=False,
        resume=folder / "journal.npz", workers=1,
    )  # fmt: skip
    samples.save(folder / OUT / "noise.csv")


def _power(folder: Path, graph: LayerGraph, images: Path | None, given: Mapping[str, Any]) -> None:
    feed = made_up(graph.model) if images is None else load_images(images, 1, start=0, graph=graph)
    with turn_to_measure():
        found = measure_power(graph, feed, WINDOW_S, PAIRS, WINDOW_S / 4, given["provider"], progress=False)
    write_json(folder / OUT / "power.json", {"compute_w": found.compute_w, "note": found.note})


KINDS = {"profile": _profile, "noise": _noise, "power": _power}
VERSION = 1  # of what a job does with what it is given


def main(arguments: list[str]) -> int:
    """Do one job: ``python -m dnnsplit.agents.jobs FOLDER PARENT MEMORY_BYTES``; it ends when its parent does."""
    folder, parent, memory = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    limit_memory(memory)
    threading.Thread(target=follow, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    given, out = told["given"], folder / OUT
    out.mkdir(exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    try:
        graph, images = _graph(folder / MODEL, given)
        KINDS[told["kind"]](folder, graph, images, given)
    except DnnSplitError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
