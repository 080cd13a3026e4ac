"""Power measured with energy counters that are made up; what must hold on any machine is asserted of them."""

import inspect
import math
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.small_models import conv_net, images

import dnnsplit as ds
from dnnsplit.profiling import power
from dnnsplit.profiling.power import Power, measure_power


@dataclass
class Counters:
    """What `measure_power` needs of ``zeus.monitor.ZeusMonitor``; each window has one second, and the powers it is told [W].

    Attributes
    ----------
    watts : (idle, busy) by kind and index, such as ("cpu", 0)
    drift_w : that every window takes more than the one before
    """

    watts: dict
    drift_w: float = 0.0
    soc: tuple | None = None
    windows: int = 0

    def begin_window(self, key, sync_execution=True, restart=False):
        assert not sync_execution
        self.key = key

    def end_window(self, key, sync_execution=True, cancel=False):
        assert (key, sync_execution) == (self.key, False)
        busy = key.startswith("busy")
        self.windows += 1
        found = SimpleNamespace(time=1.0, gpu_energy={}, cpu_energy=None, dram_energy=None, soc_energy=None)
        for (kind, index), pair in self.watts.items():
            table = getattr(found, f"{kind}_energy") or {}
            setattr(found, f"{kind}_energy", table | {index: pair[busy] + self.drift_w * self.windows})
        if self.soc:
            found.soc_energy = SimpleNamespace(**{name: 1e3 * pair[busy] for name, pair in self.soc})
        return found


BOTH = {("cpu", 0): (20.0, 25.0), ("dram", 0): (2.0, 2.5), ("gpu", 0): (30.0, 31.0)}
SHORT = {"seconds": 0.01, "settle_s": 0.0, "progress": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return conv_net(tmp_path_factory.mktemp("power") / "small.onnx")


def test_windows_end_when_the_power_is_known(model):
    assert measure_power(model, images(1), meter=Counters(BOTH), **SHORT).windows["pair"].nunique() == 5
    drifting = Counters({("cpu", 0): (20.0, 25.0)}, drift_w=1.0)  # 4 W and 6 W in turn
    assert measure_power(model, images(1), meter=drifting, pairs=7, **SHORT).windows["pair"].nunique() == 7


def test_power_is_busy_less_idle_of_what_the_model_runs_on(model):
    found = measure_power(model, images(2), meter=Counters(BOTH), pairs=3, **SHORT)
    assert found.counted == ("cpu 0", "dram 0")  # the GPU is there, but the model does not run on it
    assert (found.compute_w, found.idle_w, found.spread_w) == pytest.approx((5.5, 22.0, 0.0))
    assert list(found.windows["state"]) == ["idle", "busy", "busy", "idle", "idle", "busy"]
    assert (found.windows["runs"] > 0).tolist() == (found.windows["state"] == "busy").tolist()
    assert found.run_j == pytest.approx(5.5 * found.run_s)
    assert found.run_s == pytest.approx(3.0 / found.windows["runs"].sum())
    assert found.frame[["counter", "counted", "above_w"]].values.tolist() == [
        ["cpu 0", True, 5.0],
        ["dram 0", True, 0.5],
        ["gpu 0", False, 1.0],
    ]
    assert "5.5 W above 22 W idle" in str(found)
    assert "gpu 0" in found._repr_html_()
    for part in ("Counters (cpu 0, dram 0)", "small.onnx on cpu", "3 pairs of 1 s", "0 W"):
        assert part in found.note


def test_a_drift_cancels_out_and_shows_as_spread(model):
    found = measure_power(model, images(1), meter=Counters({("cpu", 0): (20.0, 25.0)}, drift_w=0.1), pairs=4, **SHORT)
    assert found.compute_w == pytest.approx(5.0)
    assert found.spread_w == pytest.approx(0.1 * math.sqrt(4 / 3))


def test_parts_of_a_system_on_a_chip_count_once(model):
    jetson = (("cpu_energy_mj", (1.0, 4.0)), ("gpu_energy_mj", (1.0, 1.0)), ("total_energy_mj", (5.0, 9.0)))
    found = measure_power(model, images(1), meter=Counters({}, soc=jetson), pairs=2, **SHORT)
    assert (found.counted, found.compute_w) == (("soc total",), pytest.approx(4.0))
    apple = (("cpu_total_mj", (1.0, 4.0)), ("dram_mj", (1.0, 1.5)), ("gpu_mj", (1.0, 3.0)))
    found = measure_power(model, images(1), meter=Counters({}, soc=apple), pairs=2, **SHORT)
    assert (found.counted, found.compute_w) == (("soc cpu", "soc dram"), pytest.approx(3.5))


def test_counters_of_the_process_itself_are_measured(model):
    """A meter that takes 3 W per CPU of this process: about 3 W, however busy the machine is."""

    class Own:
        def begin_window(self, key, sync_execution):
            self.start = time.perf_counter(), time.process_time()

        def end_window(self, key, sync_execution):
            seconds, cpu = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
            return SimpleNamespace(time=seconds, gpu_energy={}, cpu_energy={0: 3 * cpu}, dram_energy=None, soc_energy=None)

    found = measure_power(model, images(2), 0.1, 3, 0.0, meter=Own(), progress=False)
    assert found.compute_w == pytest.approx(3 * found.cpu_share, rel=0.2)
    assert 0 < found.run_s < 60
    assert found.idle_w < found.compute_w


def test_a_graph_is_as_good_as_its_file(model):
    found = measure_power(ds.load(model), images(1), meter=Counters(BOTH), pairs=2, **SHORT)
    assert (found.model, found.provider, found.meter) == ("small.onnx", "cpu", "Counters")


def test_the_power_goes_into_the_network_file(tmp_path, model):
    path = tmp_path / "network.yaml"
    path.write_text((ROOT / "data" / "networks" / "device-edge.yaml").read_text())
    before = ds.Network.load(path)
    found = measure_power(model, images(1), meter=Counters(BOTH), pairs=2, **SHORT)
    for _ in range(2):  # the second time in the place of the first
        found.write(path, "edge")
    after = ds.Network.load(path)
    edge = after.server("edge")
    assert edge.compute_w == pytest.approx(5.5)
    assert edge.note == f"{before.server('edge').note}; {found.note}"
    assert (edge.transmit_w, edge.speed_cpu) == (before.server("edge").transmit_w, 1.0)
    assert (after.server("device"), after.links) == (before.server("device"), before.links)
    with pytest.raises(ds.NetworkError, match="did you mean 'edge'"):
        found.write(path, "egde")


@pytest.mark.parametrize(
    ("watts", "says"),
    [
        ({}, "there is none; measure on the server itself"),
        ({("gpu", 0): (30.0, 31.0)}, "only gpu 0, and the model runs on the CPU"),
        ({("cpu", 0): (20.0, 20.0)}, r"small.onnx cannot be told from idle \(0 W above idle"),
        ({("cpu", 0): (20.0, 19.0)}, "cannot be told from idle"),
        ({("cpu", 0): (20.0, math.nan)}, "cannot be told from idle"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, watts, says):
    with pytest.raises(ds.ProfileError, match=says):
        measure_power(model, images(1), meter=Counters(watts), pairs=2, **SHORT)


def test_a_difference_within_its_own_spread_is_refused(model):
    class Noisy(Counters):
        def end_window(self, key, sync_execution):
            found = super().end_window(key, sync_execution)
            found.cpu_energy[0] += 9 * (-1) ** int(key[-1]) * key.startswith("busy")
            return found

    with pytest.raises(ds.ProfileError, match=r"cannot be told from idle \(5 W above idle, \+- 9.859 W over 6 pairs"):
        measure_power(model, images(1), meter=Noisy({("cpu", 0): (20.0, 25.0)}), pairs=6, **SHORT)


def test_the_figures_of_windows_by_hand():
    rows = [
        {"pair": pair, "state": state, "seconds": 2.0, "runs": 4, "own_cpu": 0.5, "others_cpu": math.nan, "cpu 0": joules}
        for pair, both in enumerate([(40, 60), (40, 64), (40, 56)])
        for state, joules in zip(("idle", "busy"), both, strict=True)
    ]
    found = Power(pd.DataFrame(rows), ("cpu 0",), "m.onnx", "cpu", "by hand", "host", "date")
    assert (found.compute_w, found.idle_w, found.spread_w) == pytest.approx((10.0, 20.0, 2.0))
    assert (found.run_s, found.run_j, found.cpu_share) == pytest.approx((0.5, 5.0, 0.5))
    assert "busy with other things" not in found.note  # not known


def test_wrong_windows_are_named_at_once(model):
    with pytest.raises(ds.OptionError, match=r"(?s)3 problems.*seconds is 0.*settle_s is -1.*pairs is 1; it takes 2"):
        measure_power(model, images(1), 0, 1, -1, meter=Counters(BOTH))


def test_without_zeus_the_error_names_the_package(model, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(power, "version", missing)
    with pytest.raises(ds.ProfileError, match=r"pip install -e '.\[energy\]'"):
        measure_power(model, images(1), **SHORT)


class Monitor(Counters):
    """What a `ZeusMonitor` tells of itself."""

    cpu_indices, gpu_indices, soc_is_present = (), (), False

    def __init__(self):
        super().__init__({("cpu", i): (20.0, 25.0) for i in self.cpu_indices})


@pytest.fixture
def zeus(monkeypatch):
    """Stand in for the package: `zeus.monitor.ZeusMonitor`."""
    monkeypatch.setitem(sys.modules, "zeus", SimpleNamespace(monitor=SimpleNamespace(ZeusMonitor=Monitor)))
    monkeypatch.setitem(sys.modules, "zeus.monitor", SimpleNamespace(ZeusMonitor=Monitor))
    monkeypatch.setattr(power, "version", lambda name: "0.16.0")


def test_a_machine_without_counters_is_refused_before_anything_runs(model, monkeypatch, zeus, tmp_path):
    monkeypatch.setattr(power, "RAPL", tmp_path / "no")
    with pytest.raises(ds.ProfileError, match=r"there is no .*no, no GPU that counts and no Jetson.*compute: 5.8 W"):
        measure_power(model, images(1), 100.0)
    monkeypatch.setattr(power, "RAPL", tmp_path)
    with pytest.raises(ds.ProfileError, match="may not be read: sudo chmod"):
        measure_power(model, images(1), 100.0)


def test_the_zone_of_the_whole_platform_is_left_out(model, monkeypatch, zeus, tmp_path):
    for index, name in enumerate(("package-0", "psys")):
        (tmp_path / f"intel-rapl:{index}").mkdir()
        (tmp_path / f"intel-rapl:{index}" / "name").write_text(f"{name}\n")
    monkeypatch.setattr(power, "RAPL", tmp_path)
    monkeypatch.setattr(Monitor, "cpu_indices", (0, 1, 2))
    assert power._zeus_monitor().cpu_indices == [0, 2]
    assert "zeus 0.16.0" in measure_power(model, images(1), pairs=2, **SHORT).note


def test_zeus_itself_has_what_is_asked_of_it():
    monitor = pytest.importorskip("zeus.monitor")
    for method in (monitor.ZeusMonitor.begin_window, monitor.ZeusMonitor.end_window):
        assert list(inspect.signature(method).parameters)[:3] == ["self", "key", "sync_execution"]
    from zeus.monitor.energy import Measurement

    assert {"time", "gpu_energy", "cpu_energy", "dram_energy", "soc_energy"} <= set(Measurement.__dataclass_fields__)
    assert {"cpu_indices", "gpu_indices", "soc_is_present"} <= set(vars(monitor.ZeusMonitor(gpu_indices=[], cpu_indices=[])))


def test_what_is_drawn_between_two_looks(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(power.time, "monotonic", lambda: now[0])
    drawn = power.Drawn(Counters(BOTH))
    assert math.isnan(drawn.watts())  # too early to tell
    now[0] = 1.0
    assert drawn.watts() == 20.0 + 2.0 + 30.0  # all of the machine
    now[0] = 1.5
    assert drawn.watts() == 52.0
    none = power.Drawn(Counters({}))
    now[0] = 3.0
    with pytest.raises(ds.ProfileError, match="no energy counter"):
        none.watts()
