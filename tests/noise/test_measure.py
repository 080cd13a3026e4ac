"""Measured noise: the prefix walk gives what whole models give, one by one, and an interrupted measurement goes on."""

import itertools
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import TESTS
from helpers.processes import started, wait_until
from helpers.small_models import conv_net, images, telling

import dnnsplit as ds
from dnnsplit.cutting.running import run_parts, whole
from dnnsplit.graph.reading import read_model
from dnnsplit.noise.meter import noise_meter
from dnnsplit.quantize.calibration import Calibration, calibrate
from dnnsplit.quantize.rewrite import quantize_layer
from dnnsplit.quantize.setting import THESIS, QuantizationSetting, check_one_setting

THREE = ("c1", "c2", "c3")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx"))


@pytest.mark.parametrize("setting", ["default", "thesis"])
def test_every_scheme_equals_the_whole_model_in_onnx_runtime(net, setting):
    model, pictures = read_model(net.model_path), images(3)
    calibration = calibrate(net, images(4, seed=9), setting)
    samples = ds.measure_noise(net, pictures, layers=3, calibration=calibration, progress=False)
    assert samples.layers == THREE
    int8 = {name: quantize_layer(net, name, calibration) for name in samples.layers}
    for bits in itertools.product((0, 1), repeat=3):
        swap = {name: int8[name] for name, bit in zip(samples.layers, bits, strict=True) if bit}
        per_image = []
        for image in pictures:
            plain, quantized = whole(net, {}, {"x": image[None]}), whole(net, swap, {"x": image[None]})
            per_image.append(np.mean([np.abs(plain[o] - quantized[o]).mean() for o in model.outputs]))  # rho, by the slides
        row = (samples.schemes == bits).all(axis=1)
        assert samples.noise[row][0] == pytest.approx(np.mean(per_image), rel=1e-3, abs=1e-7)
        assert samples.details["rho std"][row].item() == pytest.approx(np.std(per_image, ddof=1), rel=1e-2, abs=1e-7)
        assert (samples.noise[row][0] > 0) == any(bits)


@pytest.mark.parametrize("setting", ["default", "thesis"])
@pytest.mark.parametrize("where", ["device", "edge", "alternating"])
def test_the_noise_of_the_parts_that_are_deployed_is_that_of_the_table(net, tmp_path, setting, where):
    from helpers.plans import plan_for

    pictures, model = images(3), read_model(net.model_path)
    samples = ds.measure_noise(net, pictures, 3, setting=setting, progress=False)
    servers = ("device", "cloud") if where == "alternating" else (where,)
    assignment = dict(zip(net.topological, itertools.cycle(servers), strict=False))
    for names in (("c1",), ("c2", "c3"), THREE):
        plan = plan_for(net, assignment, names, samples.origin)
        assert plan.quantized == names
        assert QuantizationSetting.of(plan.origin["setting"]) == QuantizationSetting.of(setting)
        bundle = ds.cut(net.model_path, plan, tmp_path / "-".join(names))  # by the calibration that came with the noise
        feeds = [{"x": image[None]} for image in pictures]
        pairs = [(whole(net, {}, feed), run_parts(bundle, feed)) for feed in feeds]
        rho = np.mean([np.abs(plain[o] - found[o]).mean() for plain, found in pairs for o in model.outputs])
        assert rho == pytest.approx(ds.fit_noise(samples, "measured").of(names), rel=0.01)
    dtypes = {wire.dtype for wire in bundle.wires if wire.name not in model.outputs} - {"float32"}
    assert dtypes <= {"int8" if setting == "thesis" else "uint8"}


def test_nothing_quantized_has_exactly_no_noise_and_the_order_of_schemes_does_not_matter(net):
    calibration = calibrate(net, images(4))
    every = ds.measure_noise(net, images(2), layers=3, calibration=calibration, progress=False, workers=1)
    assert every.noise[0] == 0.0
    some = ds.measure_noise(net, images(2), layers=3, schemes=[[1, 0, 1], [0, 0, 1]], calibration=calibration, progress=False)
    assert some.noise.tolist() == ds.fit_noise(every, "measured").predict(some.schemes).tolist()
    alone = ds.measure_noise(net, images(2), 3, "alone", calibration=calibration, progress=False, workers=5)
    assert alone.schemes.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert alone.noise.tolist() == ds.fit_noise(every, "measured").predict(alone.schemes).tolist()


def test_samples_carry_what_they_depend_on(net):
    samples = ds.measure_noise(net, images(2), layers=["c2"], progress=False)
    assert samples.origin["metric"] == "rho"
    assert samples.origin["images"] == 2
    assert samples.origin["setting"]["activation"] == "uint8"
    assert set(Calibration.from_json(samples.origin["calibration"]).ranges) == {"c1.silu", "c2.out", "c2.silu"}


def test_samples_say_what_the_file_says_of_its_weights(net, tmp_path):
    assert "weights" not in ds.measure_noise(net, images(1), 1, progress=False).origin
    told = ds.load(telling(conv_net(tmp_path / "m.onnx"), weights="untrained: random"))
    ds.measure_noise(told, images(1), 1, progress=False).save(tmp_path / "noise.csv")
    assert ds.NoiseSamples.load(tmp_path / "noise.csv").origin["weights"] == "untrained: random"


def test_every_metric_can_be_the_noise(net):
    by_metric = {m: ds.measure_noise(net, images(2), 3, progress=False, metric=m) for m in ("rho", "nsr", "relative:side")}
    for metric, samples in by_metric.items():
        assert samples.origin["metric"] == metric
        assert samples.noise.tolist() == by_metric["rho"].details[metric].tolist()
        assert list(samples.frame.columns) == [*THREE, "noise", "noise_std", "noise_images"]


def test_a_budget_is_spent_on_the_design(net, tmp_path):
    calibration = calibrate(net, images(2))
    options = {"layers": 3, "calibration": calibration, "progress": False}
    every = ds.fit_noise(ds.measure_noise(net, images(2), **options), "measured")
    samples = ds.measure_noise(net, images(2), budget=6, resume=tmp_path / "noise.npz", **options)
    assert samples.schemes[:4].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
    assert len(samples.frame) == 6
    assert samples.noise.tolist() == every.predict(samples.schemes).tolist()
    assert len(ds.measure_noise(net, images(2), budget=100, **options).frame) == 7  # there are no more
    with pytest.raises(ds.NoiseError, match="3 layers need 4 or more"):
        ds.measure_noise(net, images(2), budget=3, **options)
    with pytest.raises(ds.NoiseError, match="a budget chooses the schemes"):
        ds.measure_noise(net, images(2), schemes=5, budget=5, **options)


def test_a_meter_measures_each_scheme_once(net, monkeypatch):
    meter = noise_meter(net, images(2), calibrate(net, images(2)), layers=3)
    every = ds.fit_noise(ds.measure_noise(net, images(2), 3, calibration=calibrate(net, images(2)), progress=False), "measured")
    for names in ((), ("c2",), ("c3", "c1"), THREE):
        assert meter(names) == every.of(names)
    assert len(meter.measured.frame) == 4
    assert meter.origin == every.origin
    changed = [np.abs(a - b).mean() for a, b in zip(meter.outputs(("c2",)).values(), meter.outputs(()).values(), strict=True)]
    assert np.mean(changed) == pytest.approx(meter(["c2"]), rel=1e-6)

    def never(*_):
        raise AssertionError("a known scheme was measured again")

    monkeypatch.setattr("dnnsplit.noise.meter.errors", never)
    assert meter(("c1", "c3")) == every.of(("c1", "c3"))
    with pytest.raises(ds.NoiseError, match="'c9' is not a quantizable layer"):
        meter(("c9",))


def test_a_meter_verifies_a_choice(net):
    from dnnsplit.noise.verification import verify

    meter = noise_meter(net, images(2), layers=3)
    samples = ds.measure_noise(net, images(2), 3, schemes="alone", progress=False)
    guess = ds.NoiseModel.polynomial(THREE, dict.fromkeys(THREE, 0.0))  # promises anything
    limit = float(np.median(samples.noise[1:]))

    def choose(noise):
        within = np.flatnonzero(noise.every() <= limit)
        best = max(within, key=lambda k: (int(k).bit_count(), k))
        return tuple(n for i, n in enumerate(THREE) if best >> i & 1)

    found = verify(guess, meter, choose, limit, samples)
    assert 0 < found.noise <= limit
    assert found.noise == meter(found.quantized)


INTERRUPTED = """
import sys, time
import dnnsplit as ds, dnnsplit.noise.meter as meter
sys.path.insert(0, sys.argv[3])
from helpers.small_models import images
original = meter.errors
meter.errors = lambda *arguments: time.sleep(0.002) or original(*arguments)
meter.SAVE_S = 0.05
ds.measure_noise(ds.load(sys.argv[1]), images(300), 3, progress=False, resume=sys.argv[2])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_measurement_goes_on_where_it_stopped(net, tmp_path, number, monkeypatch):
    path = tmp_path / "noise.npz"
    command = [sys.executable, "-c", INTERRUPTED, net.model_path, path, TESTS]
    with started(*command, stderr=subprocess.DEVNULL) as child:
        wait_until(lambda: child.poll() is not None or (path.exists() and _done(path) >= 200))
        child.send_signal(number)
        assert child.wait(60) != 0
    before = _done(path)
    assert 200 <= before < 2400

    import dnnsplit.noise.meter as meter

    calls, original = [], meter.errors
    monkeypatch.setattr("dnnsplit.noise.meter.errors", lambda *given: calls.append(1) or original(*given))
    resumed = ds.measure_noise(net, images(300), 3, progress=False, resume=path)
    assert len(calls) == 2400 - before
    fresh = ds.measure_noise(net, images(300), 3, progress=False)
    assert resumed.frame.equals(fresh.frame)  # to the last bit
    assert resumed.details.equals(fresh.details)
    assert resumed.origin == fresh.origin
    calls.clear()
    assert ds.measure_noise(net, images(300), 3, progress=False, resume=path).frame.equals(fresh.frame)
    assert not calls  # a finished one is read


LOCKED = """
import sys, threading
import dnnsplit as ds
from dnnsplit.noise.schemes import all_schemes
sys.path.insert(0, sys.argv[2])
from helpers.small_models import images
enter, main, entered = threading.Condition.__enter__, threading.get_ident(), []
def interrupted(condition):
    found = enter(condition)
    if threading.get_ident() == main:
        entered.append(1)
        if len(entered) == 30:  # later than the start of two threads, earlier than the end
            raise KeyboardInterrupt
    return found
graph, pictures = ds.load(sys.argv[1]), images(300)
meter = ds.noise_meter(graph, pictures, layers=3)
threading.Condition.__enter__ = interrupted
meter.samples(all_schemes(3), progress=False)
"""


def test_an_interruption_leaves_no_lock_that_a_worker_waits_for(net):
    # An interruption may come right after the lock of a condition is taken, before it is known to be: nobody releases it.
    arguments = [sys.executable, "-c", LOCKED, str(net.model_path), str(TESTS)]
    found = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr


def _done(path):
    with np.load(path) as file:
        return int((~np.isnan(file["values"]).any(axis=2)).sum())


def test_a_file_of_another_measurement_is_not_resumed(net, tmp_path):
    path = tmp_path / "noise.npz"
    ds.measure_noise(net, images(2), 3, progress=False, resume=path)
    for options, what in (
        ({"images": images(3)}, "images_sha256, calibration"),
        ({"layers": 2}, "layers, calibration"),
        ({"setting": "thesis"}, "setting, calibration"),
    ):
        given = {"images": images(2), "layers": 3} | options
        with pytest.raises(ds.NoiseError, match=f"holds a measurement with other {what}"):
            ds.measure_noise(net, progress=False, resume=path, **given)
    with np.load(path) as file:
        found = dict(file)
    identity = json.loads(str(found["identity"]))
    del identity["metrics"]  # as files of fewer numbers of each image have it
    np.savez(path, **found | {"identity": np.array(json.dumps(identity)), "values": found["values"][..., :3]})
    with pytest.raises(ds.NoiseError, match="holds a measurement with other metrics; delete it"):
        ds.measure_noise(net, images(2), 3, progress=False, resume=path)
    path.write_bytes(b"no such thing")
    with pytest.raises(ds.NoiseError, match="not readable as a measurement to resume"):
        ds.measure_noise(net, images(2), 3, progress=False, resume=path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layers": ["c9"]}, "'c9' cannot run in int8"),
        ({"layers": 0}, "measure at least one layer"),
        ({"schemes": "some"}, "give 'all', 'alone', a number, or a 0/1 array"),
        ({"schemes": 0}, "measure at least one"),
        ({"layers": 2, "schemes": [[0, 2]]}, "other than 0 and 1"),
        ({"metric": "rhoo"}, "metric 'rhoo' is unknown .did you mean 'rho'"),
        ({"metric": "snr_db"}, "take nsr"),
        ({"detections": True}, "there are no detections to compare in outputs of the shapes"),
        ({"setting": "theses"}, "did you mean 'thesis'"),
    ],
)
def test_bad_requests_are_named(net, options, text):
    with pytest.raises(ds.DnnSplitError, match=text):
        ds.measure_noise(net, images(1), progress=False, **options)


def test_two_settings_are_not_mixed(net):
    with pytest.raises(ds.NoiseError, match="mixed, 'default' in the calibration, 'thesis' in the noise; measure all with one"):
        ds.measure_noise(net, images(1), setting=THESIS, calibration=calibrate(net, images(1)), progress=False)
    noise = ds.measure_noise(net, images(1), 1, setting="thesis", progress=False).origin
    check_one_setting({"noise": noise, "times": {"setting": {"activation": "int8", "per_channel": False, "reduce_range": False}}})
    check_one_setting({"noise": noise, "times": {}})
    with pytest.raises(ds.NoiseError) as told:
        check_one_setting({"noise": noise, "times": {"setting": {"activation": "uint8"}}, "plan": noise})
    assert str(told.value) == (
        "quantization settings are mixed, 'thesis' in the noise and the plan, 'default' in the times; "
        "measure all with one: setting='thesis' or setting='default' (--setting on the command line)"
    )
    with pytest.raises(ds.NoiseError, match=r"setting=QuantizationSetting\(activation='int8', per_channel=True"):
        check_one_setting({"noise": noise, "times": {"setting": {"activation": "int8"}}})


def test_samples_of_two_settings_do_not_update_each_other(net):
    one, two = (ds.measure_noise(net, images(2), 1, setting=setting, progress=False) for setting in ("default", "thesis"))
    with pytest.raises(ds.NoiseError, match=r"mixed, 'default' in the samples, 'thesis' in the ones that update them"):
        one.updated(two)
    assert len(one.updated(one).frame) == 2


@pytest.mark.parametrize("metric", ["inf", "l1", "l2", "l2_mean"])
def test_every_norm_can_be_the_noise_that_is_limited(net, metric):
    samples = ds.measure_noise(net, images(2), 2, metric=metric, progress=False)
    assert samples.origin["metric"] == metric
    assert samples.noise.tolist() == samples.details[metric].tolist()
    noise = ds.fit_noise(samples, "measured")
    assert noise.of(()) == 0
    assert noise.of(samples.layers) == samples.noise[-1] > 0


def test_two_meters_on_one_file_learn_from_each_other(net, tmp_path, monkeypatch):
    path, calibration = tmp_path / "noise.npz", calibrate(net, images(2))
    first, second = (noise_meter(net, images(2), calibration, 3, resume=path) for _ in range(2))
    values = [first(("c1",)), second(("c2",)), first(("c1", "c3"))]
    monkeypatch.setattr("dnnsplit.noise.meter.errors", None)  # nothing can be measured any more
    third = noise_meter(net, images(2), calibration, 3, resume=path)
    assert [third(names) for names in (("c1",), ("c2",), ("c1", "c3"))] == values
    assert len(third.measured.frame) == 3
    with pytest.raises(ds.NoiseError, match="there is no sample"):
        _ = noise_meter(net, images(2), calibration, 3).measured


def test_outputs_that_are_no_numbers_are_an_error(net, monkeypatch):
    monkeypatch.setattr("dnnsplit.noise.meter.errors", lambda *_: np.full(6, np.nan))
    with pytest.raises(ds.NoiseError, match=r"image [01]: the outputs are not all numbers with c2 in int8"):
        noise_meter(net, images(2), layers=3)(["c2"])
