"""Who is there, and what the links between them give: registry and network state, at the agent that others join."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dnnsplit.agents.names import name_problem
from dnnsplit.deployment.hosts import host_port
from dnnsplit.ground.errors import DeployError

LOST_S = 4.0  # an agent that was not heard of for so long is lost
LONGEST_WAIT_S = 60.0  # for a change
SILENT_S = 1.2  # and one that was not for so long, if nobody listens where it was


@dataclass
class Member:
    """What an agent told of itself last.

    Attributes
    ----------
    name, address : str
        Where it is called, ``host:port``.
    instance : str
        Of its process: another one has started anew.
    facts : Mapping[str, Any]
        Of its machine.
    powers : Mapping[str, float]
        What it draws [W], as `Server` has it; empty where nobody knows.
    state : Mapping[str, Any]
        Load, jobs, stages, and links that leave it.
    seen : float
        When, on the clock of `time.monotonic` [s].
    """

    name: str
    address: str
    instance: str
    facts: Mapping[str, Any]
    powers: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    seen: float = 0.0

    @property
    def is_alive(self) -> bool:
        """Whether it was heard of just now."""
        return time.monotonic() - self.seen < LOST_S


class Registry:
    """The agents that have joined, by name."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._alive: set[str] = set()  # when it was looked last
        self._changed = threading.Condition()
        self._version = 0

    def beat(self, certified: str, told: Mapping[str, Any]) -> None:
        """Take what an agent tells of itself; the first time it joins.

        Raises
        ------
        DeployError
            Its certificate carries another name, or another agent of that name is there.
        """
        member = Member(**{key: told[key] for key in ("name", "address", "instance", "facts", "powers", "state")})
        member.seen = time.monotonic()
        if problem := name_problem(member.name):
            raise DeployError(problem)
        if certified and certified != member.name:
            message = (
                f"{member.name!r} came with the certificate of {certified!r}; start it with its own, or with --name {certified}"
            )
            raise DeployError(message)
        with self._changed:
            old = self._members.get(member.name)
            if old and old.is_alive and old.instance != member.instance and old.address != member.address:
                message = f"an agent named {member.name!r} is at {old.address} already; choose another name"
                raise DeployError(message)
            self._members[member.name] = member
            if old is None or not old.is_alive or old.instance != member.instance or _news(old) != _news(member):
                self.news()

    def members(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each, as JSON has it, with ``alive``."""
        with self._changed:
            return {
                name: {
                    "address": m.address, "instance": m.instance, "facts": m.facts, "powers": m.powers, "state": m.state,
                    "alive": m.is_alive, "silent_s": round(min(time.monotonic() - m.seen, 1e9), 2),
                }
                for name, m in self._members.items()
            }  # fmt: skip

    def wait(self, version: int, limit_s: float) -> int:
        """Wait until something has changed since a version, for so long at most [s]; return the version of now.

        Raises
        ------
        DeployError
            The limit is beyond what callers need: each holds a thread of this agent meanwhile.
        """
        if not 0 <= limit_s <= LONGEST_WAIT_S:
            message = f"limit_s is {limit_s!r}; give a number from 0 to {LONGEST_WAIT_S:g}"
            raise DeployError(message)
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, limit_s)
            return self._version

    def call_on_silent(self) -> None:
        """Knock where the agents are that were not heard of for a moment; one whose place is empty is lost at once."""
        with self._changed:
            silent = [m for m in self._members.values() if m.is_alive and time.monotonic() - m.seen > SILENT_S]
        for member in silent:
            try:
                socket.create_connection(_place(member.address), timeout=SILENT_S).close()
            except ConnectionRefusedError:
                member.seen = -math.inf
            except OSError:  # it may be busy, or its network slow
                continue
        with self._changed:
            alive = {name for name, member in self._members.items() if member.is_alive}
            if alive != self._alive:
                self._alive = alive
                self.news()

    def news(self) -> None:
        """Let those that wait for a change look."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def forget(self, name: str) -> None:
        """Take an agent off the list that has said that it leaves."""
        with self._changed:
            if self._members.pop(name, None):
                self.news()


def _place(address: str) -> tuple[str, int]:
    host, port = host_port(address)
    return host.strip("[]"), port


def _news(member: Member) -> dict[str, Any]:
    """Return what others wait for a change of: all but what is always a little different."""
    return {key: value for key, value in member.state.items() if key not in ("load", "pool_bytes")}
