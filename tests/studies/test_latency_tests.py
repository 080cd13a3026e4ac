"""The thesis' latency test on a small network: rows, resuming, and what it refuses."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.small_models import conv_net, images, pictures

import dnnsplit as ds
from dnnsplit.codecs.forms import codec
from dnnsplit.codecs.pixels import find_pixels
from dnnsplit.cutting.running import whole
from dnnsplit.profiling.wire_forms import NAMES, NUMBERS, WireForms


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
    assert len(pd.read_csv(results)) == 4
    for row in rows.drop_duplicates("plan_id").itertuples():  # one plan may answer two limits
        terms = pd.read_csv(tmp_path / "build" / f"{row.topology}-{row.max_noise:g}" / "terms.csv").set_index("term")
        assert terms.loc["latency", "predicted_s"] == pytest.approx(row.predicted_s)
        assert terms.loc["latency", "measured_s"] == pytest.approx(row.latency_s)
        # nothing that was predicted is left out or counted twice, and so with what was measured
        assert terms.drop(index="latency")[["predicted_s", "measured_s"]].sum().tolist() == pytest.approx(
            [row.predicted_s, row.latency_s]
        )
        assert abs(terms.loc["hand-over", "measured_s"]) < 0.2 * row.latency_s

    # stopped while the first plan is run again: the rows of the others stay
    rest = pd.read_csv(results).iloc[2:]
    results.write_text(rest.to_csv(index=False))

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
    pd.testing.assert_frame_equal(again, rows, check_dtype=False)


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
    def counted(*arguments):
        with ds.testbed(*arguments) as client:
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
