"""The deployments of the agent that others join: what was asked for, and a deployer process for each, started anew if it dies."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnsplit.agents.names import name_problem
from dnnsplit.agents.stages import TAIL_LINES
from dnnsplit.deployment.stage.process import child_environment
from dnnsplit.ground.errors import DeployError, nearest
from dnnsplit.ground.files import write_json
from dnnsplit.ground.huge_pages import with_huge_pages

REQUEST, STATE, STEPS, SWITCHES = "request.json", "state.json", "steps.jsonl", "switches.csv"
EVERY_S = 0.2
PAUSE_S = 2.0  # before a deployer that has failed is started anew, the first time
LONGEST_S = 60.0


class Deployments:
    """The deployments of one agent, a folder each: ``request.json``, ``state.json``, ``steps.jsonl``, ``switches.csv``.

    Parameters
    ----------
    folder : Path
        Of them all.
    command : Sequence[str]
        That starts a deployer; the folder of its deployment is added.
    told : Callable[[], None], optional
        Called when something is asked for: a deployer that runs may look then.
    """

    def __init__(self, folder: Path, command: Sequence[str], told: Callable[[], None] = lambda: None) -> None:
        self.folder, self.command, self._told_of = folder, tuple(command), told
        self.folder.mkdir(parents=True, exist_ok=True)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._began: dict[str, float] = {}  # when each was started
        self._failed: dict[str, subprocess.Popen[bytes]] = {}  # those whose end has been told
        self._due: dict[str, float] = {}  # when one that failed may start again
        self._pauses: dict[str, float] = {}  # how long that is put off the next time [s]
        self._lock, self._stop = threading.RLock(), threading.Event()

    def start(self) -> None:
        """Begin to look after the deployers."""
        threading.Thread(target=self._look_after, name="deployers", daemon=True).start()

    def end(self) -> None:
        """End all deployers; the deployments stay as they are."""
        self._stop.set()
        with self._lock:
            for child in self._children.values():
                _end(child)

    @property
    def names(self) -> list[str]:
        """Those that are there."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{REQUEST}"))

    def answers(self) -> dict[str, Callable[[str, dict[str, Any]], Any]]:
        """Return what others may ask."""
        return {"deploy": self._deploy, "deployments": self._told, "undeploy": self._undeploy}

    def _deploy(self, who: str, given: Mapping[str, Any]) -> None:
        """Take a request; a deployment of that name changes to it."""
        name = given["name"]
        if problem := name_problem(name, "the deployment"):
            raise DeployError(problem)
        with self._lock:
            write_json(self.folder / name / REQUEST, given["request"])
            self._due.pop(name, None)
            self._pauses.pop(name, None)
        self._told_of()

    def _undeploy(self, who: str, given: Mapping[str, Any]) -> None:
        """End a deployment; the agents end the stages of those that are not there any more."""
        name = given["name"]
        if name not in self.names:
            message = f"there is no deployment {name!r}{nearest(name, self.names)}"
            raise DeployError(message)
        with self._lock:
            (self.folder / name / REQUEST).unlink()
            if child := self._children.pop(name, None):
                _end(child)
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _told(self, who: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state of each, and of the one that is named the steps after so many."""
        found = {}
        for name in self.names:
            folder = self.folder / name
            state = json.loads((folder / STATE).read_text(encoding="utf-8")) if (folder / STATE).is_file() else {}
            if state and not self._has_told(name, state):
                state["status"] = "resuming"  # what it says is of before
            found[name] = {"request": json.loads((folder / REQUEST).read_text(encoding="utf-8")), "state": state}
        name = str(given.get("name", ""))
        if name in found:
            steps, switches = self.folder / name / STEPS, self.folder / name / SWITCHES
            lines = steps.read_text(encoding="utf-8").splitlines() if steps.is_file() else []
            found[name]["steps"] = [json.loads(line) for line in lines[given.get("after", 0) :]]
            found[name]["switches"] = switches.read_text(encoding="utf-8") if switches.is_file() else ""
        return found

    def _has_told(self, name: str, state: Mapping[str, Any]) -> bool:
        """Whether a state was told by the deployer that runs now."""
        with self._lock:
            child = self._children.get(name)
            return child is not None and child.poll() is None and state.get("at", 0.0) >= self._began.get(name, math.inf)

    def _look_after(self) -> None:
        while not self._stop.wait(EVERY_S):
            for name in self.names:
                with self._lock:
                    child = self._children.get(name)
                    if child is None or child.poll() is not None:
                        self._begin(name, child)

    def _begin(self, name: str, old: subprocess.Popen[bytes] | None) -> None:
        """Start the deployer of a deployment; after a pause where it has failed, twice as long each time."""
        folder, now = self.folder / name, time.monotonic()
        if old is not None and self._failed.get(name) is not old:
            self._failed[name] = old
            tail = (folder / "stderr").read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
            told = f"has ended and is started anew: {chr(10).join(tail) or f'exit code {old.returncode}'}"
            with (folder / STEPS).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": "deployer", "text": told, "at": time.time()}) + "\n")
            if old.returncode >= 0:  # else somebody has killed it
                pause = self._pauses.get(name, PAUSE_S)
                self._due[name], self._pauses[name] = now + pause, min(2 * pause, LONGEST_S)
        if now < self._due.get(name, 0.0):
            return
        self._began[name] = time.time()
        with (folder / "stderr").open("wb") as err:
            self._children[name] = subprocess.Popen(
                [*self.command, str(folder), str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
                env=with_huge_pages(child_environment(), True),
            )  # fmt: skip


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()  # all that it does may be done again, and its files are written whole
    child.wait()
