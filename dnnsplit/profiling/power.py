"""What a server draws while a model runs, measured: its own energy counters, busy against idle."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.graph.external_data import save
from dnnsplit.graph.feeds import Feed, Images, feeds_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.reading import read_model
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import OptionError, ProfileError, raise_problems
from dnnsplit.ground.kinds import told
from dnnsplit.ground.markup import folded, readable, shown
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.profiling.kernels import host_name
from dnnsplit.runtime.sessions import Session, find_provider, session
from dnnsplit.runtime.timing import settled

MARK = "compute measured by dnnsplit power"  # begins the note; what stands before it is kept
RAPL = Path("/sys/class/powercap/intel-rapl")
WARM_UP = 3
FIXED = 4  # seconds, runs, own_cpu, others_cpu: what a window has beside its counters
LOOK_S = 1.0  # least time between two looks
WAY_OUT = "measure on the server itself, or write its power into the network file, with its source (compute: 5.8 W)"
# Fields of zeus' SoCMeasurement [mJ], of Jetson and of Apple silicon, that do not overlap, but for the total.
SOC = {
    "total_energy_mj": "soc total", "cpu_energy_mj": "soc cpu", "cpu_total_mj": "soc cpu", "dram_mj": "soc dram",
    "gpu_energy_mj": "soc gpu", "gpu_mj": "soc gpu",
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Power:
    """The measured power of a server while a model runs on it.

    Attributes
    ----------
    windows : pd.DataFrame
        One row per window: pair, state ("idle" or "busy"), seconds [s], runs, own_cpu and others_cpu (CPUs kept busy by this
        process, and by all others; NaN where the system does not tell), and the energy of each counter [J].
    counted : tuple[str, ...]
        Counters that make up the power; others of `windows` were there, and are not part of it.
    model, provider : str
        What ran, and on which execution provider.
    meter : str
        What read the counters, such as "zeus 0.16.0".
    host, date : str
        Where and when.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> power = ds.measure_power("model.onnx", ds.scenes.images(1))  # doctest: +SKIP
    >>> power.compute_w, power.idle_w, power.run_j  # doctest: +SKIP
    """

    windows: pd.DataFrame = field(repr=False)
    counted: tuple[str, ...]
    model: str
    provider: str
    meter: str
    host: str
    date: str

    @property
    def _above(self) -> pd.Series:
        return _above(self.windows, self.counted)

    @property
    def compute_w(self) -> float:
        """P^c [W]: what the server draws more than idle while the model runs, mean over the pairs of windows."""
        return float(self._above.mean())

    @property
    def spread_w(self) -> float:
        """Standard deviation of it from pair to pair [W]."""
        return float(self._above.std())

    @property
    def idle_w(self) -> float:
        """What the same counters show while nothing runs [W]; it is no part of the slides' energy."""
        return float(_watts(self.windows, self.counted)["idle"].mean())

    @property
    def run_s(self) -> float:
        """Wall time of one run of the model [s]."""
        busy = self.windows[self.windows["state"] == "busy"]
        return float(busy["seconds"].sum() / busy["runs"].sum())

    @property
    def run_j(self) -> float:
        """Energy of one run above idle [J]: P x t."""
        return self.compute_w * self.run_s

    @property
    def cpu_share(self) -> float:
        """CPUs that this process had while the model ran; a one-thread run alone on its core has 1."""
        return float(self.windows.loc[self.windows["state"] == "busy", "own_cpu"].mean())

    @property
    def others_cpu(self) -> float:
        """CPUs that other processes kept busy during all windows: counters see them too."""
        return float(self.windows["others_cpu"].mean())

    @property
    def note(self) -> str:
        """How it was measured, for the network file."""
        seconds = self.windows["seconds"].median()
        busy = "" if math.isnan(self.others_cpu) else f", {self.others_cpu:.2f} CPU busy with other things"
        return (
            f"{MARK} with {self.meter} ({', '.join(self.counted)}): {show(self.compute_w, 'W')} +- {show(self.spread_w, 'W')} "
            f"above {show(self.idle_w, 'W')} idle, one thread of {self.model} on {self.provider} with {self.cpu_share:.2f} CPU, "
            f"{self.windows['pair'].nunique()} pairs of {show(seconds, 's')}{busy}; {self.host}, {self.date}"
        )

    @property
    def frame(self) -> pd.DataFrame:
        """One row per counter: counter, counted, idle_w, busy_w, above_w, spread_w [W]."""
        rows = []
        for name in [str(name) for name in self.windows][2 + FIXED :]:
            watts = _watts(self.windows, [name])
            above = watts["busy"] - watts["idle"]
            rows.append((name, name in self.counted, watts["idle"].mean(), watts["busy"].mean(), above.mean(), above.std()))
        return pd.DataFrame(rows, columns=["counter", "counted", "idle_w", "busy_w", "above_w", "spread_w"])

    def write(self, path: str | Path, server: str) -> None:
        """Put the power into a network YAML as the server's ``compute``, and into its note how it was measured."""
        check_arguments(Power.write, locals(), some=("path", "server"))
        network = Network.load(path)
        before = network.server(server).note.partition(MARK)[0].rstrip("; ")
        note = f"{before}; {self.note}" if before else self.note
        servers = (replace(s, compute_w=self.compute_w, note=note) if s.name == server else s for s in network.servers)
        replace(network, servers=tuple(servers)).save(path)

    def __str__(self) -> str:
        one = f"one run of {self.model} takes {show(self.run_s, 's')} and {show(self.run_j, 'J')}"
        return folded(f"{show(self.compute_w, 'W')} above {show(self.idle_w, 'W')} idle; {one}\n  {self.note}")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return shown(self, readable(self.frame))


def measure_power(
    model: LayerGraph | str | Path,
    images: Images,
    seconds: float = 10.0,
    pairs: int = 10,
    settle_s: float = 1.0,
    provider: str = "cpu",
    meter: Any = None,
    progress: bool = True,
) -> Power:
    """Measure what this machine draws while a model runs in one thread, by its own energy counters.

    A window in which the model runs again and again is set against one of equal length in which nothing is run; pairs of
    windows take turns in their order, so that a steady drift cancels out. On the CPU the counters of CPUs (RAPL packages), of
    their memory and of a system on a chip make up the power; on a provider with its own memory those of GPUs do, too. Counters
    are of the whole machine: let nothing else run.

    Parameters
    ----------
    model : LayerGraph | str | Path
        ONNX file, or the graph that was loaded from it.
    images : Images
        Inputs to run, as for `profile`.
    seconds : float, default 10.0
        Of each window [s]; counters are read at its ends, so that long windows are more exact.
    pairs : int, default 10
        Of windows, at most, and at least 2; from 5 on, none is added once the 95 % confidence interval of the median of what is
        drawn above idle is within 1 %.
    settle_s : float, default 1.0
        Pause before each window [s].
    provider : str, default "cpu"
        Execution provider of ONNX Runtime.
    meter : Any, optional
        What reads the counters; ``zeus.monitor.ZeusMonitor`` by default. Anything with its `begin_window` and `end_window` will
        do, which return its ``Measurement``.
    progress : bool, default True
        Show a progress bar.

    Returns
    -------
    Power

    Raises
    ------
    OptionError
        Windows that are too few or have no length.
    ProfileError
        Zeus is not installed, no counter is readable here, or the power cannot be told from idle.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph = ds.examples.yolo11n().graph
    >>> ds.measure_power(graph, ds.scenes.images(1)).write("network.yaml", "device")  # doctest: +SKIP
    """
    check_arguments(measure_power, locals())
    problems = [f"seconds is {seconds!r}; it must be above 0"] if not 0 < seconds < math.inf else []
    problems += [f"settle_s is {settle_s!r}; it must be 0 or more"] if not 0 <= settle_s < math.inf else []
    problems += [f"pairs is {pairs!r}; it takes 2 or more to tell the spread"] if pairs < 2 else []
    known = meter is None or (hasattr(meter, "begin_window") and hasattr(meter, "end_window"))
    problems += [] if known else [f"meter is {told(meter)}; give one that begins and ends windows, such as a ZeusMonitor"]
    raise_problems(OptionError, "measure_power", problems)
    found = find_provider(provider)
    read = model.model if isinstance(model, LayerGraph) else read_model(model)
    feeds = feeds_of(read, images)
    with TemporaryDirectory() as folder:
        one = session(save(read.proto, Path(folder)), provider=found)
    name = type(meter).__name__ if meter is not None else f"zeus {_zeus_version()}"
    meter = _zeus_monitor() if meter is None else meter
    for _ in range(WARM_UP):
        one.run(None, dict(feeds[0]))
    rows: list[dict[str, Any]] = []
    counted: tuple[str, ...] = ()
    with tqdm(total=2 * pairs, desc="power", unit="window", disable=not progress) as bar:
        for pair in range(pairs):
            for state in ("idle", "busy") if pair % 2 == 0 else ("busy", "idle"):
                time.sleep(settle_s)
                row = _window(meter, f"{state} {pair}", seconds, one, feeds if state == "busy" else [])
                rows.append({"pair": pair, "state": state, **row})
                counted = counted or _counted(list(row)[FIXED:], found.own_memory)
                bar.update()
            if settled(_above(pd.DataFrame(rows), counted).to_numpy(float)):
                break
    date = datetime.now(UTC).isoformat(timespec="seconds")
    power = Power(pd.DataFrame(rows), counted, read.path.name, found.name, name, host_name(), date)
    made = power.windows["pair"].nunique()
    if not power.compute_w > 2 * power.spread_w / math.sqrt(made):
        above = f"{show(power.compute_w, 'W')} above idle, +- {show(power.spread_w, 'W')} over {made} pairs of windows"
        message = (
            f"the power of {power.model} cannot be told from idle ({above}); stop what else runs, or use longer "
            "windows (seconds) or more of them (pairs)"
        )
        raise ProfileError(message)  # fmt: skip
    return power


class Drawn:
    """What this machine draws, all in all, from one look at its energy counters to the next.

    Parameters
    ----------
    meter : Any, optional
        As for `measure_power`.

    Raises
    ------
    ProfileError
        Zeus is not installed, or no counter is readable here.
    """

    def __init__(self, meter: Any = None) -> None:
        self._meter = _zeus_monitor() if meter is None else meter
        self._watts, self._since = math.nan, 0.0
        self._look()

    def watts(self) -> float:
        """Return what was drawn between the last two looks, a second apart at least [W]; NaN before there were two.

        Raises
        ------
        ProfileError
            None of the counters is of the machine.
        """
        if time.monotonic() - self._since >= LOOK_S:
            found = self._meter.end_window("drawn", sync_execution=False)
            told = _joules(found)
            self._watts = sum(told[name] for name in _counted(list(told), gpu=True)) / found.time
            self._look()
        return self._watts

    def _look(self) -> None:
        self._meter.begin_window("drawn", sync_execution=False)
        self._since = time.monotonic()


def _watts(windows: pd.DataFrame, counters: Sequence[str]) -> pd.DataFrame:
    """One row per pair: "idle" and "busy" power of some counters together [W]."""
    watts = windows[list(counters)].sum(axis=1, skipna=False) / windows["seconds"]
    return windows.assign(watts=watts).pivot(index="pair", columns="state", values="watts")


def _above(windows: pd.DataFrame, counters: Sequence[str]) -> pd.Series:
    """Return what some counters show together while the model runs, above idle, by pair [W]."""
    watts = _watts(windows, counters)
    return watts["busy"] - watts["idle"]


def _window(meter: Any, name: str, seconds: float, one: Session, feeds: list[Feed]) -> dict[str, float]:
    """Measure one window, idle where there are no feeds; return its seconds, runs, busy CPUs, and joules by counter."""
    runs = 0
    meter.begin_window(name, sync_execution=False)  # a run has ended when it returns: there is nothing to wait for
    own, every, until = time.process_time(), _busy_cpu_s(), time.perf_counter() + seconds
    if feeds:
        while runs == 0 or time.perf_counter() < until:
            one.run(None, dict(feeds[runs % len(feeds)]))
            runs += 1
    else:
        time.sleep(seconds)
    own, every = time.process_time() - own, _busy_cpu_s() - every
    found = meter.end_window(name, sync_execution=False)
    others = max(0.0, every - own) if math.isfinite(every) else math.nan
    row = {"seconds": found.time, "runs": runs, "own_cpu": own / found.time, "others_cpu": others / found.time}
    return row | _joules(found)


def _joules(found: Any) -> dict[str, float]:
    """Return what each counter took in a window [J]."""
    told: dict[str, float] = {}
    for kind in ("cpu", "dram", "gpu"):
        told |= {f"{kind} {index}": float(joules) for index, joules in (getattr(found, f"{kind}_energy") or {}).items()}
    parts = {part: getattr(found.soc_energy, name, None) for name, part in SOC.items() if hasattr(found.soc_energy, name)}
    return told | {part: 1e-3 * value for part, value in parts.items() if value is not None}


def _counted(names: Sequence[str], gpu: bool) -> tuple[str, ...]:
    """Return the counters, of these, that make up the power; each part of the machine once."""
    kinds = ("soc total",) if "soc total" in names else ("cpu", "dram", "soc cpu", "soc dram", *(["soc gpu"] if gpu else []))
    kinds += ("gpu",) if gpu else ()
    found = tuple(name for name in names if name.rstrip(" 0123456789") in kinds)
    if not found:
        there = f"there are only {', '.join(names)}, and the model runs on the CPU" if names else "there is none"
        message = f"no energy counter of what the model runs on is readable here: {there}; {WAY_OUT}"
        raise ProfileError(message)
    return found


def _busy_cpu_s() -> float:
    """CPU seconds of the whole machine so far, without idle and waiting ones; NaN where there is no /proc/stat."""
    try:
        ticks = [int(t) for t in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]]
        return (sum(ticks[:7]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError, AttributeError):
        return math.nan


def _zeus_version() -> str:
    try:
        return version("zeus")
    except ImportError:
        message = "measuring power takes zeus, which is not installed: pip install -e '.[energy]', or pip install zeus"
        raise ProfileError(message) from None


def _zeus_monitor() -> Any:
    _zeus_version()
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor()
    # "psys" is the power of the whole platform: it holds the packages, which are there by themselves
    monitor.cpu_indices = [i for i in monitor.cpu_indices if _zone(i) != "psys"]
    if not (monitor.cpu_indices or monitor.gpu_indices or monitor.soc_is_present):
        why = f"{RAPL} is there, but may not be read: sudo chmod -R a+r {RAPL}" if RAPL.exists() else (
            f"there is no {RAPL}, no GPU that counts and no Jetson (a virtual machine or a container often hides them)"
        )  # fmt: skip
        message = f"no energy counter is readable here: {why}; {WAY_OUT}"
        raise ProfileError(message)
    return monitor


def _zone(index: int) -> str:
    try:
        return (RAPL / f"intel-rapl:{index}" / "name").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
