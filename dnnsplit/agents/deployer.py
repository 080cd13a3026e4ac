"""The deployer: from a model and hosts to an answer, step by step, and from then on after the state of the hosts and links.

It is a process of its own, a child of the agent that others join, and may end at any moment: what it has reached is in the folder
of its deployment, in the results of jobs and in the pools of the agents, and the next one goes on from there. What agents run is
made to agree with what is wanted, again and again; so a stage, an agent or a host that comes back needs nothing of its own.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from dnnsplit.agents.following import Following
from dnnsplit.agents.hosts import Hosts, LostError
from dnnsplit.agents.placed import Placed
from dnnsplit.agents.planning import Cut, Planner
from dnnsplit.agents.pool import Pool
from dnnsplit.agents.steps import Journal, Request
from dnnsplit.agents.times import HostTimes
from dnnsplit.agents.wire import Remote, UnreachableError, tls_of
from dnnsplit.deployment.client import Client
from dnnsplit.deployment.stage.process import follow
from dnnsplit.graph.feeds import feeds_of, made_up
from dnnsplit.ground.errors import DeployError, DnnSplitError
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.plan import Plan

TICK_S = 0.25
PROBE_S = 90.0  # limit on the measurement of a link
AWAY_S = 2.0
AGAIN_S = 15.0  # before a host that failed is tried again
EXPECT_S = 5.0  # between two looks at what the plan takes now
NICE = 10  # the requests of a weak source come first
ROOM = 2**20  # for what messages hold beside tensors [B]


class Deployer:
    """One deployment.

    Parameters
    ----------
    folder : Path
        Of the deployment.
    agent : str
        ``host:port`` of the agent that others join, on this machine.
    name : str
        Of that agent.
    keys : str
        Folder of its keys; empty without.
    """

    request: Request
    planner: Planner
    model: Path  # folder of the model and what it came with
    planned_for: Network  # what the plan in use was made for

    def __init__(self, folder: Path, agent: str, name: str, keys: str = "") -> None:
        self.folder, self.name, self.tls = folder, folder.name, tls_of(keys)
        self.journal = Journal(folder)
        self.hosts = Hosts(Remote(agent, name, self.tls), self.tls)
        self.placed = Placed(self.name, self.hosts, self.journal.last().get("ports", {}))
        self.times = HostTimes(self.hosts)
        self.aside: dict[str, tuple[str, str, float]] = {}  # host -> its instance, why it is left out, and since when
        self.lock = threading.RLock()
        self._expected: tuple[Plan | None, float, float | None] = (None, 0.0, None)  # of a plan, when, seconds

    def run(self) -> None:
        """Deploy, and follow the state until the process ends."""
        while True:
            before = dict(vars(self))
            self.request = self.journal.request()
            try:
                self.deploy()
            except DnnSplitError as error:
                if not self._is_at_home():
                    time.sleep(AWAY_S)  # in which this process ends, if its agent has
                    continue
                self.say("failed", str(error))
                self.tell_state("failed", problem=str(error))
                if not self.placed.current:
                    self._wait_for_news()
                    continue
                vars(self).update(before)  # the plan that is in use stays, and is followed
                self.placed.begin(self.request, self._limit_bytes())
                self.placed.reference_s = self.times.reference_s
            Following(self).run()

    def deploy(self) -> None:
        """Take every step to the first answer.

        Raises
        ------
        DnnSplitError
            A step failed, on the source or on all hosts.
        """
        started = time.monotonic()
        self.hosts.look()
        names = [name for name in self.hosts.alive if self.is_wanted(name)]
        self.say("register", ", ".join(names))
        pool = Pool(self.folder.parent.parent / "pool", math.inf)  # that of the agent: they have been pushed there
        self.model = pool.lay_out(dict(self.request.files), self.folder / "model")
        self.planner = Planner(self.name, self.request, self.model / self.request.model, self.folder)
        self.placed.begin(self.request, self._limit_bytes())
        self.times = HostTimes(self.hosts)
        self.placed.reference_s = self.times.reference_s
        for name in names:
            self.learn(name)
        self._probe()
        self._measure_noise()
        while True:
            cut = self._solve_and_cut()
            try:
                took = self._start(cut)
                break
            except LostError as error:
                self.say("again", f"{error}")
        plan = cut.plan
        row = {"reason": "deployed", "from": "", "to": cut.label, "servers": "+".join(plan.servers), "promised_s": plan.latency_s}
        self.journal.switched(row | {"noise": plan.noise, "took_s": round(time.monotonic() - started, 2)})
        self.tell_state("running")
        self.say("first request", f"{show(took, 's')}, promised {show(plan.latency_s, 's')}", seconds=took)

    def _is_at_home(self) -> bool:
        """Whether the agent that this is a child of answers: where it does not, nothing is known to have failed."""
        try:
            self.hosts.look()
        except UnreachableError:
            return False
        return True

    def _wait_for_news(self) -> None:
        """Wait until something else is asked for, or other hosts are there."""
        names = set(self.hosts.alive)
        while not self.journal.has_changed() and set(self.hosts.alive) == names:
            time.sleep(TICK_S)
            with suppress(UnreachableError):
                self.hosts.look()

    def learn(self, name: str) -> bool:
        """Push the model to a host and let it measure itself, where it has not; whether that went well."""
        try:
            files = {digest: self.model / file for file, digest in self.request.files.items()}
            sent = self.hosts.push(name, files, f"{self.name}/model")
            self.say("push", f"model to {name}: " + (show(sent, "B") if sent else "it is there"), host=name)
            known = self.times.learn(name, self._profiled)
            if self.request.counts_energy and not self.hosts.powers_known([name]):
                self.say("power", self.hosts.measure_power(name, self.request, self.folder / "powers"), host=name)
        except DeployError as error:
            self.leave_out(name, str(error))
            return False
        self.times.take(name)
        with self.lock:
            self.aside.pop(name, None)
        whole = show(self.times.of(name).seconds_of(name), "s")
        self.say("profile", f"{name}: {whole} for the whole model" + (", known" if known else ""), host=name, known=known)
        return True

    def _profiled(self, name: str) -> tuple[LayerTimes, bool]:
        """Let a host measure itself; return its times, in CPU seconds there, and whether they were known."""
        self.say("profile", f"{name} measures the model", host=name)
        return self.hosts.profile(name, self.request, self.folder / "profiles")

    def leave_out(self, name: str, why: str) -> None:
        """Go on without a host, which is tried again when it has started anew, or later.

        Raises
        ------
        DeployError
            Requests arrive there.
        """
        if name == self.hosts.source:
            message = f"{name!r}, where requests arrive, cannot take part: {why}"
            raise DeployError(message)
        with self.lock:
            self.aside[name] = (self.hosts.members.get(name, {}).get("instance", ""), why, time.monotonic())
            self.times.drop(name)
        self.say("leave out", f"{name}: {why}", host=name)

    def is_wanted(self, name: str) -> bool:
        """Whether a host is not left out, or may be tried again."""
        instance, _, since = self.aside.get(name, ("", "", -math.inf))
        return instance != self.hosts.members[name]["instance"] or time.monotonic() - since > AGAIN_S

    def usable(self) -> list[str]:
        """Return the hosts that plans may use now."""
        with self.lock:
            return [name for name in self.hosts.alive if name in self.times]

    def prepare(self, plan: Plan) -> Cut:
        """Cut a plan and bring its parts to the hosts that run them; a host that has no room is left out.

        Raises
        ------
        DeployError
            A host could not take its parts.
        """
        cut = self.planner.cut(plan)
        wrong = self.placed.bring(cut)
        for name, why in wrong.items():
            self.leave_out(name, why)
        if wrong:
            raise DeployError("; ".join(wrong.values()))
        return cut

    def tell_state(self, status: str, **more: Any) -> None:
        """Write down how things stand."""
        with self.lock:
            left_out = {name: why for name, (_, why, _) in self.aside.items()}
        told: dict[str, Any] = {"status": status, "address": self.placed.address, "source": self.hosts.source}
        told |= {"left_out": left_out, "ports": self.placed.ports}
        if self.placed.current:
            cut = self.placed.plan
            plan = cut.plan
            told |= {
                "plan": cut.label, "servers": list(plan.servers), "promised_s": plan.latency_s,
                "expected_s": self._expected_s(plan),
                "energy_j": plan.energy_j if self.hosts.powers_known(plan.servers) else None,
                "noise": plan.noise, "quantized": len(plan.quantized), "source_form": plan.source_form,
            }  # fmt: skip
        self.journal.state(**told, **more)

    def _expected_s(self, plan: Plan) -> float | None:
        """Return what a plan takes by the speeds and links of now, looked at every few seconds [s]; None: it cannot be kept."""
        if plan is not self._expected[0] or time.monotonic() - self._expected[1] > EXPECT_S:
            cost = self.planner.price(plan, self.hosts.network(self.usable()), self.times.every())
            self._expected = plan, time.monotonic(), cost.latency_s if cost else None
        return self._expected[2]

    def say(self, step: str, text: str, **more: Any) -> None:
        """Tell of a step."""
        self.journal.step(step, text, **more)

    def _probe(self) -> None:
        """Let the hosts measure the links between them, one at a time, where nobody has."""
        names = self.usable()
        for source in names:
            for target in names:
                if source == target or target in self.hosts.member(source)["state"]["links"]:
                    continue
                address = self.hosts.member(target)["address"]
                try:
                    ask = partial(Remote.ask, what="probe", deadline_s=PROBE_S, target=target, address=address)
                    self.hosts.patiently(source, ask)
                except DeployError as error:
                    self.say("probe", f"{source} -> {target}: {error}")
        self.hosts.look()
        links = self.hosts.network(names).links
        for link in links:
            told = f"{show(link.bandwidth_bytes_per_s, 'B/s')}, {show(link.latency_s, 's')}; {link.note}"
            self.say("probe", f"{link.source} -> {link.target}: {told}")
        if not links:
            self.say("probe", "there is no link" if len(names) > 1 else f"{names[0]} is alone")

    def _measure_noise(self) -> None:
        """Let the fastest host measure what int8 does to the outputs."""
        r = self.request
        if not r.quantizes or not self.planner.graph.quantizable(r.layers):
            self.say("noise", "without images nothing is quantized" if not r.images else "nothing is to be quantized")
            return
        fastest = min(self.usable(), key=lambda name: self.times.of(name).seconds_of(name))
        self.say("noise", f"{fastest} measures {r.budget} schemes of int8 at most", host=fastest)
        given = {**r.for_jobs(), "budget": r.budget, "provider": "cpu"}
        files, known = self.hosts.job(fastest, "noise", given, self.folder / "noise")
        self.planner.take_noise(files["noise.csv"])
        self.say("noise", f"{self.planner.noise}" + (", known" if known else ""), known=known)

    def _solve_and_cut(self) -> Cut:
        """Solve, cut and bring the parts to the hosts; where one cannot take them, again without it."""
        while True:
            names = self.usable()
            network, times = self.hosts.network(names), self.times.every()
            began = time.monotonic()
            plan = self.planner.plan(network, times)
            self.say("solve", f"{plan}", seconds=time.monotonic() - began)
            self.say("why", self.planner.why(plan, network, times))
            try:
                cut = self.prepare(plan)
            except DeployError:
                if self.usable() == names:
                    raise
                continue
            self.say("cut", f"{cut.bundle}")
            self.say("push parts", f"to {', '.join(cut.bundle.stages)}")
            self.planned_for = network
            return cut

    def _start(self, cut: Cut) -> float:
        """Let requests start by a plan, and answer one; return what it took [s].

        Raises
        ------
        LostError
            A host was lost meanwhile: it may go well the next time.
        DeployError
            A part cannot be run, or not be answered by.
        """
        self.placed.use(cut)
        self.placed.wait(cut)
        self.placed.drop(1)  # those of what was asked for before
        self.say("start", f"answers at {self.placed.address}")
        try:
            return self._first_request()
        except DeployError as error:
            if self.placed.has_moved(cut):
                raise LostError(str(error)) from None
            raise

    def _first_request(self) -> float:
        """Answer one request, and return what it took at the source [s]."""
        graph = self.planner.graph
        images = self.planner.images(0, 1) if self.request.images else made_up(graph.model)
        there = self.placed.address, self.name, self.request.deadline_s
        with Client(*there, tls=self.tls, server=self.hosts.source) as client:
            return client.trace(feeds_of(graph.model, images)[0])[1].latency_s

    def _limit_bytes(self) -> int:
        """Return the greatest message between stages, or with clients [B]."""
        tensors = self.planner.graph.tensors
        ends = sum(t.size_bytes for t in tensors if t.producer is None or t.is_output)
        return int(2 * (ends + max((t.size_bytes for t in tensors), default=0)) + ROOM)


def main(arguments: list[str]) -> None:
    """Run a deployer: ``python -m dnnsplit.agents.deployer AGENT NAME KEYS FOLDER PARENT``."""
    agent, name, keys, folder, parent = arguments
    os.nice(NICE)
    threading.Thread(target=follow, args=(int(parent),), daemon=True).start()
    Deployer(Path(folder), agent, name, keys).run()


if __name__ == "__main__":
    main(sys.argv[1:])
