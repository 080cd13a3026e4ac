"""Jobs on the workers of a Dask cluster, by the address of its scheduler."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import distributed

from dnnsplit.ground.errors import OptionError
from dnnsplit.sweep import local
from dnnsplit.sweep.jobs import Job


def on_workers(jobs: Sequence[Job], scheduler: str, again: bool = False) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with its row, as they finish.

    A worker that dies loses nothing: its run ends with it, and Dask gives it to another worker, at most three times.

    Parameters
    ----------
    jobs : Sequence[Job]
        Each after those it needs.
    scheduler : str
        Address of a Dask scheduler, whose workers see the same files under the same paths and have this package; start them with
        ``--nthreads`` notebooks side by side.
    again : bool, default False
        See `dnnsplit.sweep.local.work`.

    Raises
    ------
    OptionError
        No scheduler answers.
    """
    sweep = uuid.uuid4().hex[:8]  # names in the scheduler are unique, or a result of an earlier sweep would be taken
    with _connected(scheduler) as client:
        futures: dict[str, Any] = {}
        for job in jobs:
            needed = [futures[name] for name in job.needs]
            futures[job.name] = client.submit(local.work, job, needed, again, key=f"{job.name}-{sweep}", pure=False)
        named = {future.key: job for future, job in zip(futures.values(), jobs, strict=True)}
        try:
            for future in distributed.as_completed(futures.values()):
                job = named[future.key]
                yield job, future.result() if future.status == "finished" else _lost(job, future)
        finally:
            client.cancel([future for future in futures.values() if not future.done()])


def _connected(scheduler: str) -> distributed.Client:
    try:
        return distributed.Client(scheduler, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        message = f"no Dask scheduler answers at {scheduler}: {error}; start one with: dask scheduler"
        raise OptionError(message) from None


def _lost(job: Job, future: Any) -> dict[str, Any]:
    error = f"Dask: {type(future.exception()).__name__}: {future.exception()}"
    return local.unfinished(job, "failed", error)
