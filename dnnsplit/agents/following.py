"""A deployment after its first answer: the best plan for the hosts and links of the moment, taken where it is worth it."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dnnsplit.agents.monitor import OFF
from dnnsplit.agents.planning import Cut
from dnnsplit.agents.wire import UnreachableError
from dnnsplit.ground.errors import DeployError, DnnSplitError
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.solving.cost import Cost
from dnnsplit.solving.plan import Plan

if TYPE_CHECKING:
    from dnnsplit.agents.deployer import Deployer

TICK_S = 0.25
LOOK_S = 1.0  # that nothing may happen between two looks
GAIN = 1.1  # a plan is left for another that is better by this factor, or when it cannot be kept
QUIET_S = 1.5  # without a change, after which plans for what may come are prepared
STANDBYS = 3
DROP = 20.0  # the factor by which a link may drop for which a plan is prepared
LATE_S = 20.0  # a plan that is not ready after so long is given up
SLOWER = 1.2  # a change of a host's speed that is looked into
LASTS_S = 0.5  # that a change has to last, unless hosts have come or gone
REST = 10.0  # how many times as long as solving took it is not done again, unless the plan in use has become worse


@dataclass(frozen=True)
class Switch:
    """A plan that is on its way to be used: why, since when, and what the plan before would take now."""

    cut: Cut
    reason: str
    since: float
    before: str
    stayed_s: float


class Following:
    """Follows the state for one deployment.

    Parameters
    ----------
    deployer : Deployer
        Whose deployment it is, with a plan in use.
    """

    def __init__(self, deployer: Deployer) -> None:
        self.d = deployer
        self.network = deployer.planned_for
        self.pending: Switch | None = None
        self.promised: Cost | Plan = deployer.placed.plan.plan  # what the plan in use was to cost when it was last looked at
        self.speeds = deployer.times.speeds
        self.changed_at = math.inf  # when what is other now was seen first
        self.quiet_since = self.rested_at = time.monotonic()
        self.prepared = False
        self.joining: threading.Thread | None = None
        self.builder: threading.Thread | None = None
        self.preparer: threading.Thread | None = None

    def run(self) -> None:
        """Follow until something else is asked for."""
        d = self.d
        while not d.journal.has_changed():
            calm = self.pending is None and self.prepared and not _is_busy(self.builder) and math.isinf(self.changed_at)
            try:
                d.hosts.look(LOOK_S if calm else TICK_S)
            except UnreachableError:
                time.sleep(TICK_S)  # the agent that we are a child of is on its way out, or busy
                continue
            self._welcome()
            d.placed.reconcile()
            self._finish()
            busy = _is_busy(self.builder) or _is_busy(self.preparer)
            reason = self._changed() if self.pending is None and not _is_busy(self.builder) else ""
            self.changed_at = min(self.changed_at, time.monotonic()) if reason else math.inf
            if reason and self._is_due():
                self._decide(reason)
            elif self.pending is None and not busy and not self.prepared and time.monotonic() - self.quiet_since > QUIET_S:
                self._prepare()
            d.tell_state("running" if d.placed.is_used(d.placed.current) else "waiting")

    def _welcome(self) -> None:
        """Let a host that is new, or may be tried again, measure itself in the background."""
        d = self.d
        if _is_busy(self.joining):
            return
        new = [name for name in d.hosts.alive if name not in d.times and d.is_wanted(name)]
        if new:
            self.joining = threading.Thread(target=d.learn, args=(new[0],), name=f"join {new[0]}", daemon=True)
            self.joining.start()

    def _changed(self) -> str:
        """Return what is other than when the plan was made, in words; empty if nothing is."""
        d = self.d
        names, old = d.usable(), self.network.server_names
        lost, new = [n for n in old if n not in names], [n for n in names if n not in old]
        told = [f"{name} is lost" if name not in d.aside else f"{name} is left out: {d.aside[name][1]}" for name in lost]
        told += [f"{name} has joined" for name in new]
        now = d.hosts.network([n for n in names if n in old])
        for link in now.links:
            before = self.network.link(link.source, link.target)
            if before is None:
                told.append(f"{link.source} -> {link.target} is there")
            elif not 1 / OFF < link.bandwidth_bytes_per_s / before.bandwidth_bytes_per_s < OFF:
                was, is_ = show(before.bandwidth_bytes_per_s, "B/s"), show(link.bandwidth_bytes_per_s, "B/s")
                told.append(f"{link.source} -> {link.target} went from {was} to {is_}")
            elif abs(link.latency_s - before.latency_s) > max(0.5 * before.latency_s, 0.005):
                was, is_ = show(before.latency_s, "s"), show(link.latency_s, "s")
                told.append(f"the latency {link.source} -> {link.target} went from {was} to {is_}")
        for name, speed in d.times.speeds.items():
            ratio = speed / self.speeds.get(name, speed)
            if name in names and not 1 / SLOWER < ratio < SLOWER:
                told.append(f"{name} takes {ratio:.2g} times as long as before")
        failed = d.placed.failures(d.placed.current)
        told += [f"{name} cannot run its part: {why}" for name, why in failed.items()]
        return "; ".join(told)

    def _is_due(self) -> bool:
        """Whether it is time to solve for what has changed: at once where other hosts are there or the plan has become worse."""
        d, now = self.d, time.monotonic()
        names = d.usable()
        if set(names) != set(self.network.server_names) or d.placed.failures(d.placed.current):
            return True
        if now - self.changed_at < LASTS_S:
            return False
        cost = d.planner.price(d.placed.plan.plan, d.hosts.network(names), d.times.every())
        return now > self.rested_at or cost is None or d.planner.ratio(cost, self.promised) > GAIN

    def _decide(self, reason: str) -> None:
        """Find the best plan for now, and go over to it where that is worth it."""
        d = self.d
        for name in d.placed.failures(d.placed.current):
            if name != d.hosts.source:
                d.leave_out(name, d.placed.failures(d.placed.current)[name])
        names = d.usable()
        network, times = d.hosts.network(names), d.times.every()
        self.speeds = d.times.speeds
        self.quiet_since = time.monotonic()
        self.prepared = self.prepared and set(names) == set(self.network.server_names)
        try:
            plan = d.planner.plan(network, times)
        except DnnSplitError as error:
            self.network = network
            d.say("solve", f"{reason}: no plan: {error}")
            return
        finally:
            self.rested_at = time.monotonic() + REST * (time.monotonic() - self.quiet_since)
        current = d.placed.plan
        cost = d.planner.price(current.plan, network, times)
        self.network, stayed_s = network, math.nan
        self.promised = cost or self.promised
        if cost is not None and not d.placed.failures(d.placed.current):
            stayed_s = cost.latency_s
        if cost is not None and math.isfinite(stayed_s) and d.planner.ratio(cost, plan) < GAIN:
            d.say("keep", f"{reason}: the plan takes {show(stayed_s, 's')}, the best one {show(plan.latency_s, 's')}")
            return
        began = time.monotonic()

        def build() -> None:
            try:
                cut = d.prepare(plan)
            except DeployError as error:
                d.say("failed", f"{reason}: {error}")
                return
            self.pending = Switch(cut, reason, began, d.placed.plan.label, stayed_s)
            d.say("solve", f"{reason}: {plan}".splitlines()[0])

        self.builder = threading.Thread(target=build, name="build", daemon=True)
        self.builder.start()
        self.builder.join(TICK_S)

    def _finish(self) -> None:
        """Use the plan that is on its way as soon as its stages are ready."""
        d, p = self.d, self.pending
        if p is None:
            return
        late = time.monotonic() - p.since > LATE_S
        gone = not set(p.cut.bundle.stages) <= set(d.hosts.alive)
        if failed := d.placed.failures(p.cut.name):
            for name, why in failed.items():
                if name != d.hosts.source:
                    d.leave_out(name, why)
        if failed or gone or late:
            d.say(
                "failed",
                f"{p.reason}: the new plan is not used, {'it is not ready' if late else 'a host of it has gone or failed'}",
            )
            self.pending = None
            self.network = _without(self.network, *p.cut.bundle.stages)  # so that it is looked at again
            return
        if not d.placed.is_ready(p.cut.name):
            return
        if d.placed.current != p.cut.name:
            d.placed.use(p.cut)
            return
        if d.placed.is_used(p.cut.name):
            plan, took = p.cut.plan, time.monotonic() - p.since
            row: dict[str, Any] = {"reason": p.reason, "from": p.before, "to": p.cut.label}
            row |= {"servers": "+".join(plan.servers), "promised_s": plan.latency_s, "stayed_s": p.stayed_s}
            d.journal.switched(row | {"noise": plan.noise, "took_s": round(took, 2)})
            d.say(
                "switch",
                f"{p.reason}: {'+'.join(plan.servers)} from now on, promised {show(plan.latency_s, 's')}, after {took:.2g} s",
            )
            self.pending, self.promised = None, plan
            d.placed.drop()
            self.quiet_since, self.prepared = time.monotonic(), False

    def _prepare(self) -> None:
        """Cut and load plans for what may come: a host is lost, a link drops; they are then in use within a moment."""
        d = self.d
        self.prepared = True
        plan, times = d.placed.plan.plan, d.times.every()
        networks = [_without(self.network, name) for name in plan.servers if name != self.network.source]
        used = dict.fromkeys((t.source, t.target) for t in plan.transfers if t.source != t.target)
        for ends in used:
            link = self.network.link(*ends)
            if link is not None:
                networks.append(self.network.with_bandwidths({ends: link.bandwidth_bytes_per_s / DROP}))

        def build() -> None:
            for network in networks[:STANDBYS]:
                try:
                    standby = d.planner.plan(network, times)
                    if d.planner.cut(standby).name not in d.placed.cuts:
                        d.prepare(standby)
                except DnnSplitError as error:
                    d.say("prepare", f"no plan is prepared for {network}: {error}")

        self.preparer = threading.Thread(target=build, name="prepare", daemon=True)
        self.preparer.start()


def _is_busy(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()


def _without(network: Network, *names: str) -> Network:
    """Return a network without some of its servers, but the source."""
    return network.only(*(name for name in network.server_names if name == network.source or name not in names))
