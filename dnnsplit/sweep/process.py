"""The process that runs one notebook: ``python -m dnnsplit.sweep.process`` takes a job on standard input and leaves its record.

It ends when its standard input does, so that no kernel outlives the sweep, whatever ended that.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.manager import AsyncKernelManager

from dnnsplit.ground.huge_pages import with_huge_pages
from dnnsplit.sweep.jobs import Job
from dnnsplit.sweep.notebook import published
from dnnsplit.sweep.record import write_record
from dnnsplit.sweep.tracing import VARIABLE
from dnnsplit.sweep.values import from_json, to_json

LANGUAGE = "python"  # of the kernel that runs, whatever a notebook's metadata tell
GRACE_S = 5.0  # how long an interrupted cell may take to leave


class LocalKernelManager(AsyncKernelManager):
    """Starts kernels of this environment and talks to them over Unix sockets: no ports, and nobody else can connect."""

    def __init__(self, **options: Any) -> None:
        # a short path: Unix sockets take about 100 characters
        super().__init__(transport="ipc", connection_file=str(Path(os.environ[VARIABLE]).with_name("k.json")), **options)

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """Whatever kernels are installed for the user, the one that runs is this environment's."""
        trace = ["--ext", "dnnsplit.sweep.tracing"]
        return [sys.executable, "-m", "ipykernel_launcher", "-f", self.connection_file, *trace, *(extra_arguments or [])]


def main() -> None:
    """Run the job of the first line of standard input."""
    job, abandoned = Job.from_line(_read_line()), threading.Event()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="dnns-", ignore_cleanup_errors=True) as folder:  # a kernel may still write
        threading.Thread(target=_watch, args=(abandoned, folder), daemon=True).start()
        trace = Path(folder) / "files.json"
        # the kernel's, which measures, and its children's
        os.environ.update(with_huge_pages(os.environ) | {VARIABLE: str(trace)})
        row: dict[str, Any] = {"run": job.name, "notebook": job.notebook.stem, **_execute(job)}
        if abandoned.is_set():
            return
        files = json.loads(trace.read_text(encoding="utf-8")) if trace.exists() else {"read": [], "written": []}
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    row |= {"cpu_s": sum(u.ru_utime + u.ru_stime for u in usage), "seconds": time.perf_counter() - started}
    results = published(job.output) if job.output.exists() else {}
    write_record(job, row | {"output": str(job.output), "results": results}, **files)


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 1 << 16)  # nothing is sent after the line
        if not more:
            sys.exit("no job came on standard input")
        line += more
    return line


def _execute(job: Job) -> dict[str, str]:
    # jsonschema's check of internationalised addresses, which no notebook has, compiles a grammar at import: 2 s of CPU in every
    # run. A module that is None is missing, and jsonschema does without
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # typeshed does not know of None
    import papermill

    del sys.modules["rfc3987_syntax"]
    from nbclient.exceptions import DeadKernelError
    from papermill.translators import PythonTranslator, papermill_translators

    class Translator(PythonTranslator):  # type: ignore[misc]  # papermill tells no types
        """Writes parameters into a notebook; in its metadata they are JSON that a browser reads."""

        @classmethod
        def translate_dict(cls, val: dict[str, Any]) -> str:
            value = from_json(val)
            return str(cls.translate_float(value) if isinstance(value, float) else super().translate_dict(val))

    papermill_translators.register(LANGUAGE, Translator)
    # papermill fills in what stands in braces
    notebook, output = (str(path).replace("{", "{{").replace("}", "}}") for path in (job.notebook, job.output))
    try:
        papermill.execute_notebook(
            notebook, output, to_json(dict(job.parameters)), kernel_name="python3", language=LANGUAGE,
            cwd=str(job.notebook.parent), progress_bar=False, kernel_manager_class=LocalKernelManager, autosave_cell_every=30,
            stdout_file=sys.stdout, stderr_file=sys.stderr,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        return {"status": "failed", "cell": f"In[{error.exec_count}]", "error": f"{error.ename}: {error.evalue}"}
    except DeadKernelError as error:
        return {"status": "failed", "cell": "", "error": f"the kernel died: {error}"}
    return {"status": "done", "cell": "", "error": ""}


def _watch(abandoned: threading.Event, folder: str) -> None:
    """Wait until whoever started this process lets go of it; then interrupt the cell, and end all soon after."""
    # not through sys.stdin, whose lock this thread would still hold when the interpreter ends
    while os.read(0, 4096):
        pass
    abandoned.set()
    for number, wait in ((signal.SIGINT, GRACE_S), (signal.SIGKILL, 0.0)):
        for kernel in psutil.Process().children():  # each leads a group of its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(kernel.pid, number)
        time.sleep(wait)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()
