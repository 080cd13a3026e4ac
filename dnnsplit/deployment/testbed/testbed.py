"""The test-bed: a cut model in operation, on this machine with emulated speeds and links, or on real hosts."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
from tqdm.auto import tqdm
from tritonclient.grpc import service_pb2

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.plan_set import PlanSet, load_cut
from dnnsplit.deployment.client import WHAT, Client, Given, Trace
from dnnsplit.deployment.hosts import of_stages, read_hosts
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.stage.emulation import Emulation, is_too_fast, smallest_dilation
from dnnsplit.deployment.stage.watch import new_watch
from dnnsplit.deployment.testbed.deadlines import DEADLINE_S, deadline
from dnnsplit.deployment.testbed.namespaces import PORT, check_machine, namespaces
from dnnsplit.deployment.testbed.pacing import PacedClient, link_problems, paces
from dnnsplit.deployment.testbed.processes import deaths, running
from dnnsplit.deployment.wire.channels import Stub, Tls
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, nearest, raise_problems
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.runtime.timing import half_width, settled

KINDS = ("emulated", "netns", "hosts")
ASK_S = 5.0  # limit on a question to a host


@contextmanager
def testbed(
    bundle: Bundle | PlanSet | str | Path,
    network: Network,
    slowdown: Mapping[str, float] | None = None,
    time_dilation: float | None = None,
    deadline_s: float | None = None,
    kind: str = "emulated",
    hosts: Mapping[str, str] | str | Path | None = None,
    tls: Tls | None = None,
    reference_s: float | None = None,
    huge_pages: bool | None = None,
) -> Iterator[Client]:
    """Yield a client of the whole model, with a stage in operation for every server of the bundle, or of several plans.

    "emulated": the stages are real processes that are started here and talk over real sockets of this machine. Their speeds
    and their links are emulated by sleeping: a part lasts `CPU seconds * slowdown`, a transfer what its link in `network`
    says, one from a server to itself too; the client's `pace(network)` changes the links while it runs. "netns" (root on
    Linux): each stage has a network namespace and a CPU quota of 1 / slowdown; the kernel shapes the links. "hosts": the
    stages run already (`dnnsplit serve`); nothing is emulated, and what is measured is what it takes.

    Parameters
    ----------
    bundle : Bundle | PlanSet | str | Path
        The cut model, or several plans of it (`cut_plans`), or the folder of either.
    network : Network
        The servers and links that are emulated.
    slowdown : Mapping[str, float] | None, optional
        Emulated seconds per CPU second of this machine, by server, such as ``times.slowdown``; 1.0 where not given, and servers
        that the bundle does not have may be among them if all of its own are.
    time_dilation : float | None, optional
        Wall seconds per emulated second: everything runs slower by the same factor, and the reported times are divided by it. A
        server that is faster than this machine cannot be emulated in real time. None takes the smallest value of 1 or more for
        which every slowdown * dilation is 1.25 or more. With a smaller one, the watch of an emulated test-bed stands still while
        such a server computes (`dnnsplit.deployment.stage.watch`): then only that takes longer, and hand-overs count in full.
    deadline_s : float | None, optional
        Limit on each request [s], in wall time. None takes 60 s or, on an emulated test-bed, ten times what a request takes by
        its links, and by its plan if `slowdown` is given, where that is more; the client tells it.
    kind : str, default "emulated"
        "emulated", "netns" or "hosts".
    hosts : Mapping[str, str] | str | Path | None, optional
        For "hosts", ``host:port`` by server, or the YAML or JSON file that the stages were given.
    tls : Tls | None, optional
        For "hosts", files that secure the connections.
    reference_s : float | None, optional
        For "emulated": the pace of this machine at which `slowdown` holds, such as ``times.reference_s``. Servers then are as
        fast as they would be at that pace, however fast the machine is now: see `dnnsplit.runtime.pace`. None looks at no pace.
    huge_pages : bool | None, optional
        For "emulated": whether stages take their memory in huge pages, as the process that `slowdown` holds for did, such as
        ``times.huge_pages``; see `dnnsplit.ground.huge_pages`. None: as this process does.

    Raises
    ------
    DeployError
        Unknown servers, links that are needed and not there, wrong numbers (all at once); a stage that dies or does not get
        ready, with the end of its stderr; hosts that do not answer or serve another bundle; a deadline that no request can keep.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.yolo11n()
    >>> bundle = ds.cut(graph, ds.split(graph, network, times, noise, max_noise=0.05), "build", check=False)
    >>> with ds.testbed(bundle, network, times.slowdown) as client:
    ...     answer = client.infer({"images": ds.scenes.images(1)})
    >>> answer["output0"].shape
    (1, 9, 2100)
    """
    check_arguments(testbed, locals(), DeployError)
    if kind not in KINDS:
        message = f"there is no test-bed of the kind {kind!r}{nearest(kind, KINDS)}"
        raise DeployError(message)
    if isinstance(bundle, Bundle):
        bundle.check()
    elif not isinstance(bundle, PlanSet):
        bundle = load_cut(bundle)
    others: dict[str, Any] = {} if kind == "emulated" else {"reference_s": reference_s, "huge_pages": huge_pages}
    others |= {"hosts": hosts, "tls": tls} if kind != "hosts" else {"slowdown": slowdown, "time_dilation": time_dilation}
    if foreign := [name for name, value in others.items() if value is not None]:
        message = f"{foreign[0]} does not go with a test-bed of the kind {kind!r}; leave it out"
        raise DeployError(message)
    given = dict(slowdown or {})
    scaled = slowdown is not None
    # times tell of every server they know, also of those that this network, or this bundle, has not
    strange = [] if set(bundle.stages) <= set(given) else [s for s in given if s not in (*network.server_names, *bundle.stages)]
    slowdown = {s: given.get(s, 1.0) for s in (*bundle.stages, *strange)}
    raise_problems(DeployError, "test-bed", list(_problems(bundle, network, slowdown, time_dilation, deadline_s)))
    if kind == "hosts":
        addresses = of_stages(read_hosts(hosts or {}), bundle.stages)
        _meet(bundle, addresses, tls)
        with Client(addresses[bundle.source], bundle.model_name, deadline_s or DEADLINE_S, tls=tls) as client:
            yield client
        return
    dilation = time_dilation or smallest_dilation({server: slowdown[server] for server in bundle.stages})
    too_fast = [server for server in bundle.stages if kind == "emulated" and is_too_fast(slowdown[server], dilation)]
    deadline_s = deadline(bundle, network, scaled, dilation, deadline_s, {server: slowdown[server] for server in too_fast})
    configs = {}
    for server in bundle.stages:
        emulation = Emulation(
            slowdown[server], dilation, paces(bundle, network, server), reference_s=reference_s, huge_pages=huge_pages
        )
        where = str(bundle.folder.resolve())
        configs[server] = Config(where, server, emulation=emulation, deadline_s=deadline_s, parent_pid=os.getpid())
    with ExitStack() as stack:
        places = None
        if kind == "netns":
            try:
                check_machine()
            except DeployError as error:
                message = f"no test-bed of the kind 'netns' here: {error}; take kind='emulated'"
                raise DeployError(message) from None
            share = {server: 1 / (slowdown[server] * dilation) for server in bundle.stages}
            places = stack.enter_context(namespaces(bundle.stages, network, share, dilation))
            for server, place in places.items():
                shaped = replace(configs[server].emulation, slowdown=None, shaped=True)
                configs[server] = replace(configs[server], host="0.0.0.0", port=PORT, peers=place.peers, emulation=shaped)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dnnsplit-")))
        if too_fast:
            watch = new_watch(folder / "watch")
            configs = {s: replace(config, emulation=replace(config.emulation, watch=watch)) for s, config in configs.items()}
        stages = stack.enter_context(running(bundle, configs, folder, places))
        addresses = {server: stage.address for server, stage in stages.items()}
        asked = (addresses[bundle.source], bundle.model_name, deadline_s, lambda: deaths(stages.values()))
        yield stack.enter_context(Client(*asked) if places else PacedClient(bundle, addresses, *asked))


@dataclass(frozen=True, eq=False)
class LatencyTest:
    """Repeated requests to one deployment.

    Attributes
    ----------
    latency_s : np.ndarray
        float (n,) emulated end-to-end seconds, measured at the source from the arrival of the request to all outputs being there,
        and divided by the time dilation [s]; the client's own call is not part of it.
    traces : tuple[Trace, ...]
        The n traces.
    """

    latency_s: np.ndarray
    traces: tuple[Trace, ...]

    @property
    def median_s(self) -> float:
        """Median latency [s]."""
        return float(np.median(self.latency_s))

    @property
    def spread_s(self) -> tuple[float, float]:
        """The 5th and 95th percentile of the latency [s]."""
        low, high = np.percentile(self.latency_s, [5, 95])
        return float(low), float(high)

    @property
    def half_width(self) -> float:
        """Half-width of the 95 % confidence interval of the median, relative to it."""
        return half_width(self.latency_s)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per part and per transfer with the columns of `Trace.frame`; durations are medians [s]."""
        rows = pd.concat([trace.frame for trace in self.traces], ignore_index=True)
        return rows.groupby(WHAT, sort=False, as_index=False).median()

    def __repr__(self) -> str:
        low, high = self.spread_s
        spread = f"{show(low, 's')} to {show(high, 's')}"
        median = f"median {show(self.median_s, 's')} +- {100 * self.half_width:.1f} %"
        return f"LatencyTest({len(self.latency_s)} requests; {median}, 5 % to 95 %: {spread})"


def latency_test(
    client: Client, inputs: Mapping[str, Given], repeats: int = 25, warm_up: int = 3, progress: bool = True
) -> LatencyTest:
    """Send the same request again and again, one at a time, until the median latency is known to 1 %.

    Parameters
    ----------
    client : Client
        Of a running deployment.
    inputs : Mapping[str, Given]
        As for `Client.infer`.
    repeats : int, default 25
        Requests that count, at most; from 5 on, none is sent once the 95 % confidence interval of their median is within 1 %.
    warm_up : int, default 3
        Requests before them that do not, at most; they end with one that is no quicker than the one before it.
    progress : bool, default True
        Show a bar.

    Raises
    ------
    DeployError
        A request fails, or the server reports no latency because it is not one of ours.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.yolo11n()
    >>> bundle = ds.cut(graph, ds.split(graph, network, times, noise, max_noise=0.05), "build", check=False)
    >>> with ds.testbed(bundle, network, times.slowdown) as client:
    ...     test = ds.latency_test(client, {"images": ds.scenes.images(1)}, repeats=2, progress=False)
    >>> test.median_s > 0
    True
    """
    check_arguments(latency_test, locals())
    if repeats < 1 or warm_up < 0:
        message = f"repeats is {repeats!r} and warm_up is {warm_up!r}; give at least 1 and 0"
        raise DeployError(message)
    asked = requests(client, [inputs], repeats, warm_up)
    traces = [trace for _, trace in tqdm(asked, desc="requests", total=repeats, disable=not progress)]
    return LatencyTest(np.array([trace.latency_s for trace in traces]), tuple(traces))


def requests(
    client: Client, feeds: Sequence[Mapping[str, Given]], repeats: int, warm_up: int
) -> Iterator[tuple[dict[str, np.ndarray], Trace]]:
    """Yield answer and trace of each request that counts, with some inputs in turn, each of them once at least.

    How many there are, and how many are sent before them, is said at `latency_test`.
    """
    last = math.inf
    for i in range(warm_up):
        before, last = last, _timed(client, feeds[i % len(feeds)])[1].latency_s
        if last >= before:
            break
    seconds: list[float] = []
    while len(seconds) < repeats and not (len(seconds) >= len(feeds) and settled(seconds)):
        answer, trace = _timed(client, feeds[len(seconds) % len(feeds)])
        seconds.append(trace.latency_s)
        yield answer, trace


def _timed(client: Client, feed: Mapping[str, Given]) -> tuple[dict[str, np.ndarray], Trace]:
    answer, trace = client.trace(feed)
    if math.isnan(trace.latency_s):
        message = f"the server at {client.address} reports no latency; test the stage of a test-bed"
        raise DeployError(message)
    return answer, trace


def _problems(
    bundle: Bundle | PlanSet,
    network: Network,
    slowdown: Mapping[str, float],
    time_dilation: float | None,
    deadline_s: float | None,
) -> Iterable[str]:
    for server in bundle.stages:
        if server not in network.server_names:
            yield f"the server {server!r} of the bundle is not in the network{nearest(server, network.server_names)}"
    servers = {name for one in bundle.bundles for name in one.servers}
    for server, factor in slowdown.items():
        if server not in {*network.server_names, *servers}:
            yield f"slowdown names {server!r}, which is no server{nearest(server, network.server_names)}"
        if not _is_positive(factor):
            yield f"the slowdown of {server!r} is {factor!r}; it must be finite and above 0"
    if time_dilation is not None and not (_is_positive(time_dilation) and time_dilation >= 1):
        yield f"time_dilation is {time_dilation!r}; it must be finite and 1 or more (None chooses it)"
    if deadline_s is not None and not _is_positive(deadline_s):
        yield f"deadline_s is {deadline_s!r}; it must be finite and above 0 (None chooses it)"
    yield from link_problems(bundle, network)


def _meet(bundle: Bundle | PlanSet, addresses: Mapping[str, str], tls: Tls | None) -> None:
    """Ask every host who it is and what it serves; raise with all that is wrong."""
    problems = []
    for server, address in addresses.items():
        with closing(Stub(address, tls=tls)) as stub:
            try:
                found = stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=ASK_S)
            except grpc.RpcError as error:
                told = f"{error.code().name}: {error.details()}"
                problems.append(f"{server!r} at {address} does not answer: {told}; start it with 'dnnsplit serve'")
                continue
        if found.name != f"dnnsplit-{server}":
            problems.append(f"{server!r} at {address} is {found.name!r} instead")
        elif f"bundle-{bundle.digest}" not in found.extensions:
            problems.append(f"{server!r} at {address} serves another bundle; copy {bundle.folder} there and start it anew")
    raise_problems(DeployError, "hosts", problems)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and bool(0 < value < math.inf)
