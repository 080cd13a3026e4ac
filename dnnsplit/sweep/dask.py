"""Jobs on the workers of a Dask cluster, by the address of its scheduler."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import distributed

from dnnsplit.ground.errors import OptionError
from dnnsplit.sweep import local
from dnnsplit.sweep.jobs import Job

ASK_S = 0.25  # how often the scheduler is asked for its workers
AGAIN = " again"  # ends the topic of lines on runs that are begun again


def on_workers(jobs: Sequence[Job], scheduler: str, now: local.Now, again: bool = False) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with its row, as they finish.

    A worker that dies loses nothing: its run ends with it, and Dask gives it to another worker, at most three times.

    Parameters
    ----------
    jobs : Sequence[Job]
        Each after those it needs.
    scheduler : str
        Address of a Dask scheduler, whose workers see the same files under the same paths and have this package; start them with
        ``--nthreads`` notebooks side by side.
    now : local.Now
        What runs, and on how many workers, is noted in it.
    again : bool, default False
        See `dnnsplit.sweep.local.work`.

    Raises
    ------
    OptionError
        No scheduler answers.
    """
    sweep = uuid.uuid4().hex[:8]  # names in the scheduler are unique, or a result of an earlier sweep would be taken
    with _connected(scheduler) as client:
        client.subscribe_topic(sweep, lambda event: now.running.update([event[1]]))
        client.subscribe_topic(sweep + AGAIN, lambda event: now.told(event[1]))
        futures: dict[str, Any] = {}
        for job in jobs:
            needed = [futures[name] for name in job.needs]
            futures[job.name] = client.submit(_work, job, needed, again, sweep, key=f"{job.name}-{sweep}", pure=False)
        named = {future.key: job for future, job in zip(futures.values(), jobs, strict=True)}
        completed = distributed.as_completed(futures.values())
        try:
            while not completed.is_empty():
                if not completed.has_ready():
                    threads = client.nthreads()
                    now.workers, now.hosts = sum(threads.values()), len(threads)
                    for name, worker in [*now.running.items()]:
                        if worker not in threads:  # it has died, and its run waits for another one
                            del now.running[name]
                    time.sleep(ASK_S)
                    continue
                future = next(completed)
                job = named[future.key]
                now.running.pop(job.name, None)
                yield job, future.result() if future.status == "finished" else _lost(job, future)
        finally:
            client.cancel([future for future in futures.values() if not future.done()])


def _work(job: Job, needed: Sequence[Mapping[str, Any]], again: bool, sweep: str) -> dict[str, Any]:
    """Run one job on a worker, which tells where as it begins."""
    worker = distributed.get_worker()
    worker.log_event(sweep, [job.name, worker.address])
    return local.work(job, needed, again, lambda line: worker.log_event(sweep + AGAIN, line))


def _connected(scheduler: str) -> distributed.Client:
    try:
        return distributed.Client(scheduler, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        message = f"no Dask scheduler answers at {scheduler}: {error}; start one with: dask scheduler"
        raise OptionError(message) from None


def _lost(job: Job, future: Any) -> dict[str, Any]:
    error = f"Dask: {type(future.exception()).__name__}: {future.exception()}"
    return local.unfinished(job, "failed", error)
