"""Ctrl-C and its like end a command in order, whatever it is at: one line, its exit code, and nothing left."""

import os
import signal
import subprocess
import sys

import pytest
from helpers.paths import ROOT
from helpers.processes import none_left, started, wait_until

MODEL = ROOT / "data" / "models" / "yolo11n-ppe-320.onnx"
PLAN = ["split", MODEL, ROOT / "data" / "networks" / "device-edge.yaml", ROOT / "data" / "profiles" / "yolo11n-ppe-320.csv"]
ENTRIES = {"module": ["-m", "dnnsplit"], "script": ["-c", "import sys; from dnnsplit.cli.main import main; sys.exit(main())"]}

# Python runs it first: when a certain module is imported, it tells so, and the command is held there
HELD = """
import importlib.machinery, os, sys, tempfile, time

def tell():
    with open(os.environ["HELD_MARK"], "w"):
        pass

def asleep():
    tell()
    time.sleep(600)

def stuck():  # in a library that Python waits for: a lock that is taken twice
    import ctypes
    global scratch
    scratch = tempfile.TemporaryDirectory()
    lock, library = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    library.pthread_mutex_lock(lock)
    tell()
    library.pthread_mutex_lock(lock)

class Destructor:
    def __del__(self):
        asleep()

def destructor():
    Destructor()
    time.sleep(600)

def caught():
    sys.modules["dnnsplit.cli.stopping"].AGAIN_S = 0.2
    try:
        asleep()
    except BaseException:
        time.sleep(600)

def changed():
    try:
        asleep()
    except BaseException:
        raise ImportError("it is no module") from None

def slowly(module, name, after_s=600):  # what makes, or removes, a temporary folder, and there is one meanwhile
    work = getattr(module, name)

    def slow(*arguments, **options):
        setattr(module, name, work)
        if name == "mkdir":
            work(*arguments, **options)
        tell()
        time.sleep(1)
        return work(*arguments, **options) if name == "rmtree" else None

    setattr(module, name, slow)
    with tempfile.TemporaryDirectory():
        time.sleep(600 if name == "mkdir" else 0)
    time.sleep(after_s)
    raise OSError("the command ends")

def making():
    slowly(os, "mkdir")

def removing():
    import shutil
    slowly(shutil, "rmtree")

def ending():  # before the signal could come again
    import shutil
    sys.modules["dnnsplit.cli.stopping"].TICK_S = 100
    slowly(shutil, "rmtree", 0)

class Held:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == os.environ["HELD_AT"] else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        globals()[os.environ["HELD_HOW"]]()

sys.meta_path.insert(0, Held())
"""


@pytest.fixture
def held(tmp_path):
    """How to run a command that is held at an import, in an environment with a folder of its own for temporary files."""

    def run(command, at, how="asleep", entry="module"):
        (tmp_path / "sitecustomize.py").write_text(HELD)
        paths = os.pathsep.join([str(tmp_path), str(ROOT)])
        options = {"HELD_AT": at, "HELD_HOW": how, "HELD_MARK": str(tmp_path / "held"), "PYTHONPATH": paths}
        return started(sys.executable, *ENTRIES[entry], *command, env=environment(tmp_path) | options, **PIPES)

    return run


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def environment(folder):
    (folder / "scratch").mkdir()
    return {**os.environ, "TMPDIR": str(folder / "scratch")}


def scratch(folder):
    """Temporary files that are left; `.ses` is ONNX Runtime's, which writes it wherever it is imported."""
    return sorted(path.name for path in (folder / "scratch").iterdir() if path.name != ".ses")


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGINT, 130, "dnnsplit: interrupted\n"),
        (signal.SIGTERM, 143, "dnnsplit: terminated\n"),
        (signal.SIGHUP, 129, "dnnsplit: its terminal is gone\n"),
    ],
)
@pytest.mark.parametrize(("at", "entry"), [("dnnsplit.cli.running", "module"), ("numpy", "script"), ("onnx", "module")])
def test_a_signal_among_the_imports_is_one_line(held, tmp_path, number, code, told, at, entry):
    with held(PLAN, at, entry=entry) as process:
        wait_until((tmp_path / "held").exists, otherwise=lambda: process.poll() or "")
        process.send_signal(number)
        assert process.communicate(timeout=60) == ("", told)
        assert process.returncode == code
    assert scratch(tmp_path) == []


@pytest.mark.parametrize("how", ["stuck", "destructor", "caught", "changed", "making", "removing", "ending"])
def test_no_library_keeps_a_signal_to_itself(held, tmp_path, how):
    with held(PLAN, "onnx", how) as process:
        wait_until((tmp_path / "held").exists)
        process.send_signal(signal.SIGINT)
        first = "dnnsplit: the command ends\n" if how == "ending" else ""
        assert process.communicate(timeout=60) == ("", f"{first}dnnsplit: interrupted\n")
        assert process.returncode == 130
    assert scratch(tmp_path) == []


def test_two_signals_are_one_wish(held, tmp_path):
    with held(PLAN, "onnx") as process:
        wait_until((tmp_path / "held").exists)
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        output, error = process.communicate(timeout=60)
        assert (output, error.count("\n")) == ("", 1)
        assert process.returncode in (130, 143)  # two that come at once have no order


def test_a_signal_that_is_to_be_ignored_is_ignored(held, tmp_path):
    """As whoever starts a command by ``nohup`` wants it."""
    command = "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    variables = environment(tmp_path) | {"PYTHONPATH": str(ROOT)}
    with started(sys.executable, "-c", command, sys.executable, "-m", "dnnsplit", "probe", "--listen", "--port", "0",
                 env=variables, **PIPES) as process:  # fmt: skip
        assert process.stdout.readline().startswith("127.0.0.1:")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0  # it answers until Ctrl-C


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_work_that_is_stopped_is_kept_and_its_scratch_files_are_not(tmp_path, number, code):
    variables = environment(tmp_path) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dnnsplit", "noise", MODEL, "-o", tmp_path / "noise.csv", "--count", "1"]
    with none_left(), started(*command, env=variables, **PIPES) as process:
        wait_until((tmp_path / "noise.journal.npz").exists, 300, lambda: process.poll() is not None and process.stderr.read())
        process.send_signal(number)
        error = process.communicate(timeout=120)[1]
        assert process.returncode == code
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert error.endswith(f"\ndnnsplit: {word}; what is finished is kept: the same command goes on from there\n")
    assert "Traceback" not in error
    assert (tmp_path / "noise.journal.npz").exists()
    assert scratch(tmp_path) == []
