"""The thesis' latency test on a small network: rows, resuming, and what it refuses."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.small_models import conv_net, images, pictures

import dnnsplit as ds
from dnnsplit.codecs.forms import codec
from dnnsplit.codecs.pixels import find_pixels
from dnnsplit.cutting.running import whole
from dnnsplit.profiling.elsewhere import rescaled_times
from dnnsplit.profiling.factors import Factors
from dnnsplit.profiling.wire_forms import NAMES, NUMBERS, WireForms
from dnnsplit.studies.latency_rows import Point, identity_of
from dnnsplit.studies.latency_tests import _Bed, _slowdown, most_alive

COLUMNS = [
    "topology", "latency_weight", "energy_weight", "max_noise", "predicted_s", "latency_s", "low_s", "high_s", "error_%",
    "energy_j", "device_energy_j", "noise", "noise_upper", "output_noise", "output_difference", "servers", "source_form", "parts",
    "int8_layers", "repeats", "solve_s", "cut_s", "start_s", "size_bytes", "pace", "weights", "plan_id",
]  # fmt: skip


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    graph = ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx", size=32, channels=8))
    servers = [ds.Server("device", 1.0, 1.0, speed_cpu=0.5), ds.Server("edge", 1.0, 1.0, speed_cpu=4.0)]
    links = [ds.Link("device", "edge", 5e6, 0.001), ds.Link("edge", "device", 20e6, 0.001)]
    networks = {"alone": ds.Network(servers[:1], (), "device"), "both": ds.Network(servers, links, "device")}
    pictures = images(3, 32)
    calibration = ds.calibrate(graph, pictures)
    few = {"runs": 6, "splits": 3, "progress": False}
    times = ds.profile(graph, networks["both"], pictures, calibration, ("c1", "c2"), source_seconds=0.15, **few)
    samples = ds.measure_noise(graph, pictures, layers=["c1", "c2"], calibration=calibration, progress=False)
    return graph, networks, times, ds.fit_noise(samples, "measured"), pictures


def test_every_plan_is_run_compared_and_kept(setup, tmp_path, monkeypatch):
    graph, networks, times, noise, pictures = setup
    results = tmp_path / "results.csv"
    run = {"max_noise": [0.0, 1.0], "images": pictures, "build": tmp_path / "build"}
    run |= {"repeats": 3, "warm_up": 1, "results": results}
    rows = ds.latency_tests(graph, networks, times, noise, **run, progress=False)
    assert list(rows["topology"]) == ["alone", "alone", "both", "both"]
    assert (rows["output_difference"] <= 1e-3).all()
    assert rows["output_noise"].to_numpy() == pytest.approx(rows["noise"].to_numpy(), rel=0.01, abs=1e-7)
    assert (rows["low_s"] <= rows["latency_s"]).all()
    assert (rows["latency_s"] <= rows["high_s"]).all()
    # the emulation did slow the machine down: undilated, the small network takes about a millisecond
    assert (rows["latency_s"] >= 0.2 * rows["predicted_s"]).all()
    assert (rows["latency_s"] > 0.01).all()
    assert rows["error_%"].to_numpy() == pytest.approx(100 * (rows["predicted_s"] / rows["latency_s"] - 1))
    assert (rows["repeats"] == 3).all()  # fewer cannot settle
    assert list(rows.columns) == COLUMNS
    assert (rows[["latency_weight", "energy_weight", "weights"]] == [1.0, 0.0, ""]).all(axis=None)
    assert (rows[["cut_s", "start_s", "solve_s"]] > 0).all(axis=None)
    for row in rows.itertuples():
        plan = ds.split(graph, networks[row.topology], times, noise, max_noise=row.max_noise)
        assert (row.energy_j, row.device_energy_j) == pytest.approx((plan.energy_j, plan.device_energy_j))
        parts = (tmp_path / "build" / f"{row.topology}-0").rglob("*.onnx")
        assert row.max_noise or row.size_bytes == sum(part.stat().st_size for part in parts)
    assert len(pd.read_csv(results)) == 4
    requests = pd.read_csv(tmp_path / "results.runs.csv")
    assert list(requests.columns) == ["topology", "latency_weight", "max_noise", "plan_id", "run", "latency_s"]
    assert list(requests["run"]) == [0, 1, 2] * rows["plan_id"].nunique()
    medians = requests.groupby("plan_id")["latency_s"].median()
    assert rows["latency_s"].to_numpy() == pytest.approx(medians[rows["plan_id"]].to_numpy())
    for row in rows.itertuples():  # one plan may answer two limits
        terms = pd.read_csv(tmp_path / "build" / f"{row.topology}-{row.max_noise:g}" / "terms.csv").set_index("term")
        assert terms.loc["latency", "predicted_s"] == pytest.approx(row.predicted_s)
        assert terms.loc["latency", "measured_s"] == pytest.approx(row.latency_s)
        # nothing that was predicted is left out or counted twice, and so with what was measured
        assert terms.drop(index="latency")[["predicted_s", "measured_s"]].sum().tolist() == pytest.approx(
            [row.predicted_s, row.latency_s]
        )
        assert abs(terms.loc["hand-over", "measured_s"]) < 0.2 * row.latency_s

    # stopped while the first plan is run again: the rows of the others stay, and so do their requests
    rest = pd.read_csv(results).iloc[2:]
    results.write_text(rest.to_csv(index=False))
    kept = requests[requests["plan_id"].isin(rest["plan_id"])]

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dnnsplit.studies.latency_tests._measured", stop)
        with pytest.raises(KeyboardInterrupt):
            ds.latency_tests(graph, networks, times, noise, **run, progress=False)
    assert list(pd.read_csv(results)["plan_id"]) == list(rest["plan_id"])
    assert len(ds.latency_tests(graph, networks, times, noise, **run, progress=False)) == 4
    rows = pd.read_csv(results)

    def never(*_):
        raise AssertionError("a finished plan was run again")

    monkeypatch.setattr("dnnsplit.studies.latency_tests._measured", never)
    again = ds.latency_tests(graph, networks, times, noise, **run, progress=False)
    same = [column for column in COLUMNS if column not in ("solve_s", "weights")]
    pd.testing.assert_frame_equal(again[same], rows[same], check_dtype=False)
    found = pd.read_csv(tmp_path / "results.runs.csv").merge(kept, how="inner")
    assert len(found) == len(kept) > 0


def test_plans_that_run_the_same_are_run_once(setup, tmp_path):
    """Whatever topology, weight or limit asked for them; each row has its own weight, limit and energy."""
    graph, networks, times, noise, pictures = setup
    costly = networks["both"].servers[1], replace(networks["alone"].servers[0], compute_w=7.0)
    topologies = networks | {"costly": ds.Network(costly[::-1], networks["both"].links, "device")}
    pins = dict.fromkeys(graph.layer_names, "device")
    run = {"max_noise": [0.0, 0.0], "weights": [1, 0.0], "images": pictures, "build": tmp_path, "repeats": 3, "warm_up": 0}
    results = tmp_path / "results.csv"
    rows = ds.latency_tests(graph, topologies, times, noise, **run, results=results, pins=pins, progress=False)
    assert len(rows) == 12
    assert rows["plan_id"].nunique() == 1
    assert rows["latency_s"].nunique() == 1
    assert list(rows["latency_weight"]) == [1.0, 1.0, 0.0, 0.0] * 3
    assert list(rows["energy_weight"]) == [0.0, 0.0, 1.0, 1.0] * 3
    energy = rows.groupby("topology")["energy_j"].first()
    assert energy["costly"] == pytest.approx(7 * energy["alone"])
    assert energy["both"] == pytest.approx(energy["alone"])
    assert len(pd.read_csv(tmp_path / "results.runs.csv")) == 3
    for row in rows.itertuples():
        terms = pd.read_csv(tmp_path / f"{row.topology}-w{row.latency_weight:g}-0" / "terms.csv")
        assert terms["predicted_s"].iloc[-1] == pytest.approx(row.predicted_s)
    slower = replace(times, frame=times.frame.assign(factor=2 * times.frame["factor"], seconds=2 * times.frame["seconds"]))
    assert slower.slowdown["device"] == pytest.approx(2 * times.slowdown["device"])
    alone = {"alone": networks["alone"]}
    again = ds.latency_tests(graph, alone, slower, noise, **run, results=results, pins=pins, progress=False)
    assert not {*again["plan_id"]} & {*rows["plan_id"]}


def test_a_plan_is_the_same_run_by_what_it_uses_alone():
    graph, network, times, noise = ds.examples.tiny()
    servers = network.server_names
    plan = ds.split(graph, network, times, noise, max_noise=0.0, pins={graph.topological[-1]: servers[1]})
    slow = dict.fromkeys(servers, 2.0)
    known = identity_of(plan, network, slow, ())
    used = {(transfer.source, transfer.target) for transfer in plan.transfers}
    assert used
    assert identity_of(plan, network, slow | {"other": 9.0}, ()) == known
    dearer = replace(network, servers=tuple(replace(server, compute_w=99.0) for server in network.servers))
    assert identity_of(plan, dearer, slow, ()) == known
    assert identity_of(replace(plan, limits={"max_noise": 1.0}, objective=3.0, solve_s=9.0), network, slow, ()) == known
    for ends in used:
        assert identity_of(plan, network.with_bandwidths({ends: 12345.0}), slow, ()) != known
    assert identity_of(plan, network, slow | {servers[1]: 3.0}, ()) != known
    assert identity_of(plan, network, slow, "other images") != known
    quantized = replace(plan, quantized=(noise.layers[0],), origin={"calibration": {"ranges": 1}})
    assert identity_of(quantized, network, slow, ()) != known
    assert identity_of(replace(quantized, origin={"calibration": {"ranges": 2}}), network, slow, ()) != identity_of(
        quantized, network, slow, ()
    )


def test_a_request_is_not_stretched_for_long():
    graph, network, times, noise = ds.examples.tiny()
    cloud = network.server_names[1]
    plan = ds.split(graph, network, times, noise, max_noise=0.0, pins=dict.fromkeys(graph.layer_names, cloud))
    slowdown = {network.source: 4.0, cloud: 0.01}
    point = Point("both", 1.0, 0.0, 0.0, network, plan, Path(), slowdown)
    took = plan.latency_s
    for given, expected in ((None, max(2.0, 4.0 / took)), (1.5, 1.5)):
        assert expected < 125.0  # which the cloud would take
        bed = _Bed(given, 25, 10, 0.0)
        assert bed.dilation(point) == expected
        real_s = plan.cost.compute_s[cloud] / 0.01  # on this machine, where the watch stands as long
        assert bed.busy(point) == pytest.approx(real_s / (expected * took + real_s))
    point = replace(point, slowdown=slowdown | {cloud: 1.0})
    assert _Bed(None, 25, 10, 0.0).dilation(point) == 1.25


def test_tensors_are_alive_from_their_producer_to_their_last_reader():
    tensors = [ds.Tensor("x", None, ("a",), 8), ds.Tensor("s", "a", ("b", "d"), 16), ds.Tensor("t", "b", ("c",), 32)]
    tensors += [ds.Tensor("u", "c", ("d",), 4), ds.Tensor("y", "d", (), 2, is_output=True)]
    graph = ds.LayerGraph([ds.Layer(name) for name in "abcd"], tensors)
    assert most_alive(graph) == 16 + 32 + 4


def test_baselines_are_run_by_arguments_of_split(setup, tmp_path):
    graph, networks, times, noise, pictures = setup
    run = {"max_noise": [0.0], "images": pictures, "build": tmp_path, "repeats": 3, "warm_up": 1, "progress": False}
    pins = dict.fromkeys(graph.layer_names, "edge")
    row = ds.latency_tests(graph, {"both": networks["both"]}, times, noise, **run, pins=pins, source_forms=["float32"]).iloc[0]
    alone = ds.single_servers(graph, networks["both"], times, source_forms=["float32"]).set_index("server").loc["edge"]
    assert (row["servers"], row["source_form"]) == ("edge", "float32")
    assert row["predicted_s"] == pytest.approx(alone["latency_s"])
    with pytest.raises(ds.OptionError, match=r"no argument 'pin' .did you mean 'pins'"):
        ds.latency_tests(graph, networks, times, noise, **run, pin=pins)


@pytest.mark.parametrize(
    ("limit", "value", "one_by_one"), [("MOST_BUSY", 0.0, True), ("MOST_BYTES", 0.0, True), ("MOST_BUSY", 99.0, False)]
)
def test_test_beds_run_side_by_side_while_the_machine_has_room(setup, tmp_path, monkeypatch, limit, value, one_by_one):
    graph, networks, times, noise, pictures = setup
    now_open, seen = [], []

    @contextmanager
    def counted(*arguments, **named):
        with ds.testbed(*arguments, **named) as client:
            now_open.append(client)
            seen.append(len(now_open))
            yield client
        now_open.remove(client)

    monkeypatch.setattr("dnnsplit.studies.latency_tests.testbed", counted)
    monkeypatch.setattr(f"dnnsplit.studies.latency_tests.{limit}", value)
    run = {"max_noise": [0.0, 1.0], "images": pictures, "build": tmp_path, "repeats": 1, "warm_up": 0, "progress": False}
    rows = ds.latency_tests(graph, networks, times, noise, **run)
    assert len(seen) == rows["plan_id"].nunique() >= 2  # a plan may answer both limits of a topology
    assert max(seen) == (1 if one_by_one else len(seen))


def test_inputs_that_lose_something_on_their_way(setup, tmp_path):
    """What a deployment returns has the noise of the form and of the scheme, and the plan's."""
    graph, networks, times, _, _ = setup
    given = pictures(3, 32)
    pixels = find_pixels([given])
    jpeg = codec("jpeg-90", pixels)
    rows = [("x", "float32", "jpeg-90", server, 900.0, 950.0, 1e-4, 1e-4, False) for server in ("device", "edge")]
    frame = pd.DataFrame(rows, columns=[*NAMES, *NUMBERS, "lossless"])
    coded = replace(times, forms=WireForms(frame, {"x": pixels}))
    apart = []
    for image in given[:, None]:
        left = whole(graph, {}, {"x": jpeg.decode(jpeg.encode(image), "float32", image.shape)})
        apart.append(np.mean([np.abs(array - left[name]).mean() for name, array in whole(graph, {}, {"x": image}).items()]))
    eta = float(np.mean(apart))
    alone = ds.NoiseSamples(
        pd.DataFrame({"c1": [0], "c2": [0], "noise": [eta], "noise_std": [eta / 9], "noise_images": [3]}), {"source": "jpeg-90"}
    )
    samples = ds.measure_noise(graph, given, ["c1", "c2"], calibration=ds.calibrate(graph, given), progress=False)
    known = ds.fit_noise(replace(samples, sources={"jpeg-90": alone}), "measured")
    both = {"both": networks["both"]}
    run = {"max_noise": [1.001 * eta], "images": given, "build": tmp_path, "repeats": 3, "warm_up": 1, "progress": False}
    (row,) = ds.latency_tests(graph, both, coded, known, **run).to_dict("records")
    terms = pd.read_csv(tmp_path / f"both-{1.001 * eta:g}" / "terms.csv").set_index("term")
    assert terms.loc[["write x as jpeg-90 on device", "read x as jpeg-90 on edge"], "predicted_s"].tolist() == [1e-4, 1e-4]
    assert row["noise"] == pytest.approx(eta)
    assert row["output_noise"] == pytest.approx(eta, rel=1e-3)
    assert row["output_difference"] <= 1e-3


def test_times_that_do_not_say_how_they_were_scaled_cannot_be_run(setup, tmp_path):
    graph, networks, times, noise, pictures = setup
    given = ds.LayerTimes(times.frame.drop(columns=["factor"]))
    with pytest.raises(ds.DeployError, match="do not say how 'device' is scaled"):
        ds.latency_tests(graph, networks, given, noise, max_noise=[0.0], images=pictures, build=tmp_path, progress=False)


def test_a_server_is_as_slow_as_what_a_plan_computes_on_it(setup):
    graph, networks, times, noise, _ = setup
    table = pd.DataFrame([("Conv", "float32", 0.5), ("Conv", "int8", 0.4), ("*", "float32", 2.0), ("*", "int8", 3.0)],
                         columns=["op_type", "precision", "factor"])  # fmt: skip
    times = rescaled_times(times, graph, "device", {"edge": Factors(table)})
    plan = ds.split(graph, networks["both"], times, noise, pins={"c1": "device", "c2": "edge", "c3": "edge"})
    assert "edge" in plan.servers
    here = {(row.layer, row.precision): row.seconds / row.factor for row in times.frame.itertuples() if row.server == "device"}
    layers = [name for name, server in plan.assignment.items() if server == "edge"]
    cpu_s = sum(here[name, "int8" if name in plan.quantized else "float32"] for name in layers)
    assert _slowdown(times, times.slowdown, plan, "edge") * cpu_s == pytest.approx(plan.cost.compute_s["edge"])
    alone = ds.split(graph, networks["both"], times, noise, pins=dict.fromkeys(graph.layer_names, "device"))
    assert _slowdown(times, times.slowdown, alone, "edge") == times.slowdown["edge"]
