"""Jobs on Dask workers: of a cluster in this process, or of any Dask cluster by the address of its scheduler."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import distributed

from dnnsplit.ground.errors import OptionError
from dnnsplit.sweep import local
from dnnsplit.sweep.jobs import Job


def on_workers(
    jobs: Sequence[Job], workers: int, scheduler: str | None, again: bool = False
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with its row, as they finish.

    A worker that dies loses nothing: its run ends with it, and Dask gives it to another worker, at most three times.

    Parameters
    ----------
    jobs : each after those it needs
    workers : how many run side by side on this machine, where there is no scheduler
    scheduler : address of a Dask scheduler, whose workers see the same files under the same paths and have this package;
        start them with ``--nthreads`` notebooks side by side
    again : see `runner.work`

    Raises
    ------
    OptionError : no scheduler answers
    """
    sweep = uuid.uuid4().hex[:8]  # names in the scheduler are unique, or a result of an earlier sweep would be taken
    with _connected(workers, scheduler) as client:
        futures: dict[str, distributed.Future] = {}
        for job in jobs:
            needed = [futures[name] for name in job.needs]
            futures[job.name] = client.submit(local.work, job, needed, again, key=f"{job.name}-{sweep}", pure=False)
        named = {future.key: job for future, job in zip(futures.values(), jobs, strict=True)}
        try:
            for future in distributed.as_completed(futures.values()):
                job = named[future.key]
                yield job, future.result() if future.status == "finished" else _lost(job, future)
        finally:
            left = [future for future in futures.values() if not future.done()]
            client.cancel(left)
            if scheduler is None and left:
                local.stop()


def _connected(workers: int, scheduler: str | None) -> distributed.Client:
    if scheduler is None:
        # threads suffice, because each run is a process of its own
        cluster = distributed.LocalCluster(
            n_workers=1, threads_per_worker=workers, processes=False, dashboard_address="127.0.0.1:0", memory_limit=None,
            silence_logs=logging.CRITICAL,
        )  # fmt: skip
        return _Owner(cluster)
    try:
        return distributed.Client(scheduler, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise OptionError(f"no Dask scheduler answers at {scheduler}: {error}; start one with: dask scheduler") from None


class _Owner(distributed.Client):
    """A client that closes its cluster when it is closed."""

    def __exit__(self, *given: Any) -> None:
        super().__exit__(*given)
        self.cluster.close()


def _lost(job: Job, future: distributed.Future) -> dict[str, Any]:
    error = f"Dask: {type(future.exception()).__name__}: {future.exception()}"
    basic = {"run": job.name, "notebook": job.notebook.stem, "cell": "", "output": str(job.output), "results": {}}
    return {**basic, "status": "failed", "error": error, "seconds": 0.0, "cpu_s": 0.0}
