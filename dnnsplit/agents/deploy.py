"""Deploying from outside: the model is brought to the agent that others join, and whoever asked sees every step."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from dnnsplit.agents.accepted import check_accepted
from dnnsplit.agents.names import name_problem
from dnnsplit.agents.steps import COLUMNS, Request
from dnnsplit.agents.wire import Remote, UnreachableError, patiently, tls_of
from dnnsplit.deployment.client import Client
from dnnsplit.examples.pictures import are_pictures
from dnnsplit.examples.preprocessing import Preprocessing
from dnnsplit.examples.shipped import count_images, load_images, read_images
from dnnsplit.graph.blocks import load
from dnnsplit.graph.feeds import feeds_of
from dnnsplit.graph.foreign import domains_and_places
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, OptionError, nearest, raise_problems
from dnnsplit.ground.files import sha256
from dnnsplit.ground.markup import folded, readable, shown
from dnnsplit.quantize.setting import SETTINGS

DRAWN = 24  # images that are drawn for the models of the examples
PICTURES = 64  # of a folder, at most: 16 calibrate, and the last ones measure the noise
AWAY_S = 30.0  # that the agent may be away while it deploys
POLL_S = 0.2


class Deployed(Client):
    """A deployment by agents, called as a `Client`, which also tells how things stand.

    Parameters
    ----------
    name : str
        Of the deployment, under which the model answers.
    at : str
        ``host:port`` of the agent that others have joined.
    keys : str | Path, default ""
        Folder from `make_keys`, where agents have keys.
    deadline_s : float, default 60.0
        Limit on each call [s].

    Raises
    ------
    DeployError
        Nobody answers there, there is no such deployment, or it does not answer yet.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> client = ds.Deployed("127.0.0.1:7000", "small")  # doctest: +SKIP
    >>> client.state["status"], client.switches  # doctest: +SKIP
    """

    def __init__(self, name: str, at: str, keys: str | Path = "", deadline_s: float = 60.0) -> None:
        check_arguments(Deployed.__init__, locals(), above={"deadline_s": 0}, finite=("deadline_s",), some=("name", "at"))
        self.at, self.keys, self.name = at, keys, name
        found = _deployment(status(at, keys)["deployments"], name)
        state = found["state"]
        if not state.get("address"):
            message = f"{name!r} has no address yet: {state.get('problem') or state.get('status') or 'it is being deployed'}"
            raise UnreachableError(message)
        super().__init__(state["address"], name, deadline_s, tls=tls_of(keys), server=state["source"])

    @property
    def state(self) -> dict[str, Any]:
        """How things stand: status, address, plan, servers, noise, hosts that are left out and why.

        ``promised_s`` is the latency that the plan was chosen for [s], ``expected_s`` what it takes by the links and speeds of
        now; ``status`` is "running", "waiting" for a stage, "failed", or "resuming" where the deployer has started anew.
        """
        return dict(_deployment(status(self.at, self.keys)["deployments"], self.name)["state"])

    @property
    def switches(self) -> pd.DataFrame:
        """Every plan that came into use: when, why, where, what it promised, and what the one before would take [s]."""
        told = _deployment(status(self.at, self.keys, self.name)["deployments"], self.name)["switches"]
        return pd.read_csv(io.StringIO(told)) if told else pd.DataFrame(columns=COLUMNS)

    def __repr__(self) -> str:
        state = self.state
        return folded(f"Deployed({self.name} at {self.address}: {state['status']} on {'+'.join(state.get('servers', []))})")

    def _repr_html_(self) -> str:
        state = {key: value for key, value in self.state.items() if key not in ("at", "left_out")}
        return shown(self, readable(self.switches), state)


def deploy(
    model: str | Path,
    at: str,
    *,
    name: str = "",
    images: str | Path | np.ndarray | Mapping[str, np.ndarray] | None = None,
    preprocess: str | Preprocessing = "",
    shapes: Mapping[str, Sequence[int]] | None = None,
    keys: str | Path = "",
    wait_s: float = 3600.0,
    told: Callable[[str], None] | None = None,
    **asked: Any,
) -> Deployed:
    """Deploy a model on the agents that have joined one, and return what calls it.

    The model is profiled by each agent on its own machine, the links are probed, the noise of int8 is measured; then the plan is
    solved, cut and started. What is known is not measured again: the same command is done at once, and one with another limit
    within seconds. A deployment of that name changes to what is asked now, without a request being lost. It outlives this call,
    follows the state of the hosts and links, and ends with `undeploy`.

    Parameters
    ----------
    model : str | Path
        ONNX file; weights beside it are brought too.
    at : str
        ``host:port`` of the agent that others have joined, which is the source: requests arrive there.
    name : str, default ""
        Of the deployment; by default that of the file.
    images : str | Path | np.ndarray | Mapping[str, np.ndarray] | None, optional
        To profile with, to calibrate int8 and to measure its noise on: as for `profile`, a file of them, or a folder of pictures,
        of which 64 are taken at most. By default scenes for the models of the examples; for others none, and nothing is quantized
        then.
    preprocess : str | Preprocessing, default ""
        What is done to pictures, see `Preprocessing.of`.
    shapes : Mapping[str, Sequence[int]] | None, optional
        Of inputs that the model leaves open.
    keys : str | Path, default ""
        Folder from `make_keys`, where agents have keys.
    wait_s : float, default 3600.0
        For the first answer [s]; the deployment goes on beyond.
    told : Callable[[str], None] | None, optional
        Is called with a line for each step; by default it is printed to stderr.
    **asked : Any
        max_noise (None: no limit; 0: float32 alone), confidence, latency_weight, energy_weight, max_device_energy_j, layers,
        budget, setting, provider, deadline_s, in_flight: see `split`, `measure_noise` and `serve`.

    Returns
    -------
    Deployed

    Raises
    ------
    ModelError
        The file is no usable model.
    OptionError
        Wrong names or values, all of them at once; images that cannot be read.
    DeployError
        Nobody answers there, or a step failed, with what it said.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> with ds.deploy("model.onnx", "127.0.0.1:7000", max_noise=0.05) as client:  # doctest: +SKIP
    ...     outputs = client.infer(inputs)
    >>> ds.undeploy(client.name, "127.0.0.1:7000")  # doctest: +SKIP
    """
    check_arguments(deploy, locals(), least={"wait_s": 0}, some=("model", "at"))
    told = told or (lambda line: print(line, file=sys.stderr, flush=True))
    model = Path(model)
    name = name or model.stem
    raise_problems(OptionError, "deploy", list(_problems(name, asked)))
    graph = load(model, shapes=shapes)
    with TemporaryDirectory() as folder:
        file, count = _images(images, graph, Path(folder), preprocess, told)
        if asked.get("max_noise") and not file:
            message = f"a noise limit of {asked['max_noise']:g} needs images to calibrate int8 on; give images=, or max_noise=0"
            raise OptionError(message)
        _, beside = domains_and_places(model)
        check_accepted(model, beside)
        paths = {path.name: path for path in (model, *(model.parent / place for place in beside), *([file] if file else []))}
        files = {called: sha256(path) for called, path in paths.items()}
        request = Request(
            model.name, files, {n: tuple(s) for n, s in (shapes or {}).items()}, file.name if file else "", count, **asked
        )
        with _asking(at, keys) as remote:
            started = time.time()
            remote.ask("held", digests=())  # somebody has to be there; later on he may be away for a moment
            told(f"model: {' '.join(repr(graph).split())}, to {at}")
            digests = list(files.values())
            patiently(lambda: remote.ask("keep", owner=f"{name}/request", digests=digests), AWAY_S)
            for called, digest in files.items():
                patiently(partial(remote.push, paths[called], digest), AWAY_S)
            after = len(patiently(lambda: _steps(remote, name, 0), AWAY_S))
            patiently(lambda: remote.ask("deploy", name=name, request=asdict(request)), AWAY_S)
            _follow(remote, name, after, wait_s, told, started)
    return patiently(lambda: Deployed(name, at, keys, asked.get("deadline_s", 60.0)), AWAY_S)


def undeploy(name: str, at: str, keys: str | Path = "") -> None:
    """End a deployment; its stages end with it.

    Parameters
    ----------
    name : str
        Of the deployment.
    at : str
        ``host:port`` of the agent it was deployed at.
    keys : str | Path, default ""
        Folder from `make_keys`, where agents have keys.

    Raises
    ------
    DeployError
        Nobody answers there, or there is no such deployment.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.undeploy("small", "127.0.0.1:7000")  # doctest: +SKIP
    """
    check_arguments(undeploy, locals(), some=("name", "at"))
    with _asking(at, keys) as remote:
        remote.ask("undeploy", name=name)


def status(at: str, keys: str | Path = "", name: str = "") -> dict[str, Any]:
    """Return which agents have joined, how they and the links between them are, and what is deployed.

    Parameters
    ----------
    at : str
        ``host:port`` of the agent that others have joined.
    keys : str | Path, default ""
        Folder from `make_keys`, where agents have keys.
    name : str, default ""
        Of a deployment whose steps and switches are wanted too.

    Raises
    ------
    DeployError
        Nobody answers there, or it has joined another itself.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> with ds.local_agents(["device"]) as agents:
    ...     found = ds.status(agents.at)
    >>> list(found["members"]), found["deployments"]
    (['device'], {})
    """
    check_arguments(status, locals(), some=("at",))
    with _asking(at, keys) as remote:
        return {**remote.ask("members"), "deployments": remote.ask("deployments", name=name)}


@contextmanager
def _asking(at: str, keys: str | Path) -> Iterator[Remote]:
    remote = Remote(at, "", tls_of(keys))
    try:
        yield remote
    except UnreachableError as error:
        message = f"no agent answers at {at} ({error.reason})"
        raise UnreachableError(message, "start one there, dnnsplit agent --name NAME, or give another address") from None
    finally:
        remote.close()


def _deployment(found: Mapping[str, Any], name: str) -> Any:
    if name not in found:
        message = f"there is no deployment {name!r}{nearest(name, found)}"
        raise DeployError(message)
    return found[name]


def _problems(name: str, asked: Mapping[str, Any]) -> Iterator[str]:
    if problem := name_problem(name, "the deployment"):
        yield f"{problem}; give another with name="
    known = [f.name for f in fields(Request) if f.name not in ("model", "files", "shapes", "images", "count")]
    yield from (f"there is no option {key!r}{nearest(key, known)}" for key in asked if key not in known)
    least = {
        "max_noise": 0,
        "latency_weight": 0,
        "energy_weight": 0,
        "max_device_energy_j": 0,
        "layers": 0,
        "budget": 1,
        "in_flight": 1,
    }
    yield from (
        f"{key} is {asked[key]!r}; give {value} or more"
        for key, value in least.items()
        if asked.get(key) is not None and not asked[key] >= value
    )
    if asked.get("latency_weight", 1.0) == asked.get("energy_weight", 0.0) == 0:
        yield "latency_weight and energy_weight are both 0; give one of them"
    if (setting := asked.get("setting", "default")) not in SETTINGS:
        yield f"setting is {setting!r}{nearest(setting, SETTINGS)}"


def _images(
    images: str | Path | np.ndarray | Mapping[str, np.ndarray] | None,
    graph: Any,
    folder: Path,
    preprocess: str | Preprocessing,
    told: Callable[[str], None],
) -> tuple[Path | None, int]:
    """Return a file of images, and how many are in it; none for a model that nothing is drawn for."""
    if images is None:
        try:
            images = load_images("", DRAWN, graph=graph)
        except OptionError:
            return None, 0
    if isinstance(images, str | Path) and are_pictures(images):
        some = min(PICTURES, count_images(images, graph))
        images = load_images(images, some, start=0, graph=graph, preprocess=preprocess, told=told)
    elif isinstance(images, str | Path):
        images = read_images(images)
    given = {name: np.asarray(array) for name, array in images.items()} if isinstance(images, Mapping) else np.asarray(images)
    count = len(feeds_of(graph.model, given))
    path = folder / ("images.npz" if isinstance(given, dict) else "images.npy")
    if isinstance(given, dict):
        np.savez(path, allow_pickle=False, **given)
    else:
        np.save(path, given)
    return path, count


def _steps(remote: Remote, name: str, after: int) -> list[dict[str, Any]]:
    found = remote.ask("deployments", name=name, after=after)
    steps: list[dict[str, Any]] = found.get(name, {}).get("steps", [])
    return steps


def _follow(remote: Remote, name: str, after: int, wait_s: float, told: Callable[[str], None], started: float) -> None:
    """Tell the steps until the first answer, or until one failed."""
    end, away = time.monotonic() + wait_s, time.monotonic()
    while True:
        try:
            steps = _steps(remote, name, after)
            away = time.monotonic()
        except UnreachableError:
            if time.monotonic() - away > AWAY_S:
                raise
            steps = []
        after += len(steps)
        for step in steps:
            told(f"{step['step']}: {step['text']}  [{step['at'] - started:.1f} s]")
            if step["step"] == "first request":
                return
            if step["step"] == "failed":
                raise DeployError(step["text"])
        if time.monotonic() > end:
            message = f"{name!r} has not answered within {wait_s:g} s; it goes on: 'dnnsplit status' tells how far it is"
            raise DeployError(message)
        time.sleep(POLL_S)
