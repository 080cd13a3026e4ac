"""The command line: what it prints, what it writes, and its exit codes."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.coded_problems import COLUMNS
from helpers.notebook_files import notebook
from helpers.paths import MODEL, NETWORK, NOISE, ROOT, TIMES
from helpers.small_models import conv_net, double, pictures

import dnnsplit as ds
from dnnsplit.cli.assignments import shapes
from dnnsplit.cli.commands import COMMANDS
from dnnsplit.cli.main import main
from dnnsplit.profiling.wire_forms import WireForms


def test_split_prints_and_writes_a_plan_that_cut_takes(tmp_path, capsys):
    plan = tmp_path / "plan.json"
    assert main(["split", MODEL, NETWORK, TIMES, "--noise", NOISE, "--max-noise", "0.05", "-o", str(plan)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Plan: ")
    assert ds.Plan.load(plan).noise <= 0.05
    assert main(["cut", MODEL, str(plan), "-o", str(tmp_path / "parts")]) == 0
    assert json.loads((tmp_path / "parts" / "bundle.json").read_text())["model_name"] == "yolo11n-ppe-320"
    assert "Bundle(" in capsys.readouterr().out


def test_forms_are_chosen_among_those_that_are_named(tmp_path, capsys):
    times = ds.LayerTimes.load(TIMES)
    network = ds.Network.load(NETWORK)
    coded = [("png-1", 205e3, 0.009, 0.003, True), ("uint8", 307e3, 0.0001, 0.0003, True)]
    rows = [("images", "float32", form, s, size, size, *seconds, lossless)
            for form, size, *seconds, lossless in coded for s in network.server_names]  # fmt: skip
    forms = WireForms(pd.DataFrame(rows, columns=COLUMNS))
    replace(times, forms=forms).save(tmp_path / "times.csv")
    command = ["split", MODEL, NETWORK, str(tmp_path / "times.csv"), "--explain"]
    for given, told in (([], "png-1"), (["uint8"], "uint8"), (["float32"], None), (["float32", "uint8"], "uint8")):
        options = [part for form in given for part in ("--source-form", form)]
        assert main([*command, *options, "-o", str(tmp_path / "plan.json")]) == 0
        printed = capsys.readouterr().out
        plan = ds.Plan.load(tmp_path / "plan.json")
        assert plan.source_form == (told or "float32")
        assert (f"the input as {told!r}" in printed) == bool(told)
    assert main([*command, "--source-form", "png-2"]) == 2
    assert "the times have no form 'png-2' (did you mean 'png-1'" in capsys.readouterr().err
    assert main(["pareto", MODEL, NETWORK, str(tmp_path / "times.csv"), "--noise", NOISE, "--wire-form", "zstd-1"]) == 2
    assert "wire_forms: the times have no form 'zstd-1'" in capsys.readouterr().err


def test_pareto_prints_csv(tmp_path, capsys):
    assert main(["pareto", MODEL, NETWORK, TIMES, "--noise", NOISE]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("noise,latency_s,energy_j")
    assert len(lines) > 5
    assert main(["pareto", MODEL, NETWORK, TIMES, "--noise", NOISE, "-o", str(tmp_path / "front.csv")]) == 0
    assert (tmp_path / "front.csv").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["split", "none.onnx", NETWORK, TIMES], "there is no model file none.onnx"),
        (["split", MODEL, "none.yaml", TIMES], "there is no network file none.yaml"),
        (["split", MODEL, NETWORK, TIMES, "--max-noise", "0.1"], "max_noise needs a noise model"),
        (["run", "none.ipynb"], "there is no notebook"),
        (["run", str(ROOT / "notebooks" / "00-quickstart.ipynb"), "-p", "max_nose=1"], "did you mean 'max_noise'"),
        (["run", str(ROOT / "notebooks" / "00-quickstart.ipynb"), "-p", "max_noise"], "is not NAME=VALUE"),
        (["run", str(ROOT / "notebooks" / "00-quickstart.ipynb"), "-g", "max_noise=1,,2"], "a value is missing"),
        (["run", str(ROOT / "notebooks" / "00-quickstart.ipynb"), "-w", "0"], "workers is 0; give a whole number, 1 or more"),
        (["profile", MODEL, "--server", "edge", "-o", "t.csv", "--provider", "cudda"], "there is no execution provider 'cudda'"),
        (["serve", "parts", "--server", "edge", "--provider", "opnvino"], "did you mean 'openvino'"),
        (["cut", MODEL, "none.json"], "none.json is not readable as a plan"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_message(arguments, text, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("dnnsplit: ")
    assert text in error
    assert "Traceback" not in error


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_its_arguments(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert COMMANDS[name][1] in " ".join(capsys.readouterr().out.split())


def test_run_prints_a_row_per_run_and_writes_the_report(tmp_path, capsys):
    path = notebook(tmp_path / "n.ipynb", "import dnnsplit as ds\nds.publish(double=2 * x)")
    command = ["run", str(path), "-o", str(tmp_path / "out"), "-g", "x=1,2"]
    assert main([*command, "--report", str(tmp_path / "report.html")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["run", "p.x", "status"]
    assert printed[-1] == str(tmp_path / "report.html")
    table = pd.read_csv(tmp_path / "out" / "n.csv")
    assert list(table["double"]) == [2, 4]
    assert main(["run", str(notebook(tmp_path / "bad.ipynb", "1 / 0")), "-o", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "ZeroDivisionError: division by zero" in captured.out
    assert "bad failed; see" in captured.err


@pytest.fixture
def two_inputs(tmp_path):
    """A model that adds two vectors, without layers for int8, and a file of inputs."""
    np.savez(tmp_path / "both.npz", x=np.ones((16, 8)), z=np.ones((16, 8)))
    np.save(tmp_path / "x.npy", np.ones((16, 8)))
    return str(double(tmp_path / "two.onnx", {"x": [1, 8], "z": [1, 8]}))


def test_inputs_by_name_are_profiled(two_inputs, tmp_path, capsys):
    table = tmp_path / "times.csv"
    command = ["profile", two_inputs, "--server", "device", "-o", str(table), "--runs", "3", "--splits", "0"]
    assert main([*command, "--images", str(tmp_path / "both.npz")]) == 0
    assert "no layer of two.onnx can run in int8: float32 alone is measured" in capsys.readouterr().err
    times = ds.LayerTimes.load(table)
    assert set(times.frame["precision"]) == {"float32"}
    assert not times.frame["note"].str.contains("made-up").any()
    assert times.overhead == {}
    assert times.forms.of("x")["uint8"].encode_s.keys() == {"device"}


def test_what_to_give_for_another_model_is_told(two_inputs, tmp_path, capsys):
    table = tmp_path / "times.csv"
    for command in (["profile", "--server", "device"], ["noise"]):
        command = [command[0], two_inputs, "-o", str(table), *command[1:]]
        assert main(command) == 2
        assert "give --images images.npz with 'x' of shape (n, 8), 'z' of shape (n, 8)" in capsys.readouterr().err
        assert main([*command, "--images", str(tmp_path / "x.npy")]) == 2
        assert "one array is given, and the model reads 2 inputs; give arrays by name" in capsys.readouterr().err
    assert not table.exists()


def test_times_of_made_up_values_say_so(two_inputs, tmp_path, capsys):
    table = tmp_path / "times.csv"
    command = [two_inputs, "-o", str(table), "--images", "random"]
    assert main(["profile", *command, "--server", "device", "--runs", "3", "--splits", "0"]) == 0
    assert "measured on made-up values" in capsys.readouterr().err
    times = ds.LayerTimes.load(table)
    assert times.frame["note"].str.endswith("measured on made-up values").all()
    assert times.forms is None  # how far values shrink is theirs alone
    assert main(["noise", *command]) == 2  # made-up values have a noise of their own
    assert "random is not readable as a .npy or .npz file" in capsys.readouterr().err


def test_open_shapes_are_given_by_name(tmp_path, capsys):
    path = str(double(tmp_path / "open.onnx", {"x": [1, "rows", "columns"]}))
    given, table = ["--shape", "x=1,4,6"], tmp_path / "times.csv"
    measured = ["--server", "device", "-o", str(table), "--images", "random", "--runs", "3", "--splits", "0"]
    assert main(["profile", path, *given, *measured]) == 0
    network = tmp_path / "network.yaml"
    ds.Network([ds.Server("device", 2.0, 1.0)], [], "device").save(network)
    assert main(["split", path, str(network), str(table), *given, "-o", str(tmp_path / "plan.json")]) == 0
    parts = ["cut", path, str(tmp_path / "plan.json"), *given, "-o", str(tmp_path / "parts")]
    assert main(parts) == 0
    assert ds.Bundle.load(tmp_path / "parts").inputs[0].shape == (1, 4, 6)
    np.save(tmp_path / "x.npy", np.ones((1, 4, 5)))
    assert main([*parts, "--images", str(tmp_path / "x.npy")]) == 2
    assert "values for 'x' have the shape (1, 4, 5); the model needs (n, 4, 6)" in capsys.readouterr().err
    assert main([*parts, "--no-check"]) == 0
    assert main(["cut", path, str(tmp_path / "plan.json"), "--shape", "x=1,4,x", "--shape", "y"]) == 2
    error = capsys.readouterr().err
    assert "'x=1,4,x' is not NAME=1,3,640,640" in error
    assert "'y' is not NAME=" in error


def test_shapes_as_they_are_written():
    assert shapes(["x=1, 3,8,8", "a=b:0=2", "sr="]) == {"x": (1, 3, 8, 8), "a=b:0": (2,), "sr": ()}
    with pytest.raises(ds.OptionError, match="--shape: 'x' is given twice"):
        shapes(["x=1", "x=2"])
    for text in ("x", "=1", "x=-1", "x=1,,2", "x=1.5", "x=1,"):
        with pytest.raises(ds.OptionError, match="is not NAME="):
            shapes([text])


def test_forms_go_from_the_noise_to_the_plan(tmp_path, capsys):
    model, table = str(conv_net(tmp_path / "net.onnx")), tmp_path / "noise.csv"
    np.save(tmp_path / "x.npy", pictures(24))
    asked = ["-o", str(table), "--images", str(tmp_path / "x.npy"), "--layers", "2", "--count", "2", "--source-form", "jpeg-90"]
    assert main(["noise", model, *asked]) == 0
    assert "inputs also as jpeg-90" in capsys.readouterr().out
    assert ds.NoiseSamples.load(table).sources["jpeg-90"].noise[0] > 0
    assert main(["noise", model, *asked, "--source-form", "png-1"]) == 2
    assert "'png-1' brings these inputs to the last bit" in capsys.readouterr().err


def test_a_limit_is_proposed_from_the_metrics_that_were_written(tmp_path, capsys):
    model, table = str(conv_net(tmp_path / "net.onnx")), tmp_path / "noise.csv"
    np.save(tmp_path / "x.npy", pictures(24))
    asked = ["-o", str(table), "--images", str(tmp_path / "x.npy"), "--layers", "3", "--count", "3", "--metric"]
    assert main(["noise", model, *asked, "nrs"]) == 2
    assert "metric 'nrs' is unknown (did you mean 'nsr'?)" in capsys.readouterr().err
    assert not table.exists()
    assert main(["noise", model, *asked, "disagreement"]) == 2
    assert "there are no detections to compare" in capsys.readouterr().err
    assert main(["noise", model, *asked, "nsr", "--metric", "inf"]) == 0
    samples = ds.NoiseSamples.load(table)
    assert [*samples.details] == ["nsr", "nsr std", "inf", "inf std"]
    capsys.readouterr()
    most = samples.details["nsr"].median()
    assert main(["noise-for", str(table), "--metric", "nsr", "--at-most", str(most)]) == 0
    assert capsys.readouterr().out.strip() == repr(ds.noise_for(samples, "nsr", most))
    assert main(["noise-for", str(table)]) == 2
    assert "metric 'disagreement' was not measured with these samples" in capsys.readouterr().err


def test_one_setting_goes_from_the_profile_to_the_parts(tmp_path, capsys):
    """That of the slides."""
    model, network = str(conv_net(tmp_path / "net.onnx")), tmp_path / "network.yaml"
    ds.Network([ds.Server("device", 2.0, 1.0)], [], "device").save(network)
    np.save(tmp_path / "x.npy", pictures(24))
    files = {name: str(tmp_path / f"{name}.csv") for name in ("times", "noise", "others")}
    images = ["--images", str(tmp_path / "x.npy"), "--layers", "3"]
    few = ["--server", "device", "--runs", "3", "--splits", "0"]
    assert main(["profile", model, "-o", files["times"], *images, *few, "--setting", "thesis"]) == 0
    slow = ds.LayerTimes.load(files["times"]).made["device"]["float32_products"]
    assert (f"{len(slow)} of the layers in int8 are multiplied in float32" in capsys.readouterr().err) == bool(slow)
    assert main(["noise", model, "-o", files["noise"], *images, "--count", "2", "--setting", "thesis"]) == 0
    assert main(["noise", model, "-o", files["others"], *images, "--count", "2"]) == 0
    thesis, samples = vars(ds.QuantizationSetting.of("thesis")), ds.NoiseSamples.load(files["noise"])
    assert ds.LayerTimes.load(files["times"]).made["device"]["setting"] == samples.origin["setting"] == thesis
    assert len(samples.layers) == 3

    times = ds.LayerTimes.load(files["times"])
    frame = times.frame.assign(seconds=times.frame["precision"].map({"float32": 2.0, "int8": 1.0}))  # so that int8 pays
    replace(times, frame=frame).save(files["times"])
    plan, problem = tmp_path / "plan.json", [model, str(network), files["times"]]
    assert main(["split", *problem, "--noise", files["noise"], "-o", str(plan)]) == 0
    assert ds.Plan.load(plan).quantized == samples.layers
    assert main(["cut", model, str(plan), "-o", str(tmp_path / "parts"), "--images", str(tmp_path / "x.npy")]) == 0
    capsys.readouterr()
    assert main(["split", *problem, "--noise", files["others"]]) == 2
    assert "mixed, 'default' in the noise, 'thesis' in the times of device; measure all with one" in capsys.readouterr().err
    for command in (["profile", model, "-o", files["others"], *images, *few], ["noise", model, "-o", files["others"], *images]):
        before = (tmp_path / "others.csv").read_text()
        assert main([*command, "--setting", "theses"]) == 2
        assert "quantization setting 'theses' is unknown (did you mean 'thesis'?)" in capsys.readouterr().err
        assert (tmp_path / "others.csv").read_text() == before


def test_latency_and_energy_are_weighted(tmp_path, capsys):
    graph, network, times = ds.load(MODEL), ds.Network.load(NETWORK), ds.LayerTimes.load(TIMES)
    noise, plan = ds.fit_noise(ds.NoiseSamples.load(NOISE), "measured"), tmp_path / "plan.json"
    problem = [MODEL, NETWORK, TIMES, "--noise", NOISE]
    for given in ((0.0, 1.0), (0.25, 0.75)):
        weights = dict(zip(("latency_weight", "energy_weight"), given, strict=True))
        options = [f"--{name.replace('_', '-')}={value}" for name, value in weights.items()]
        assert main(["split", *problem, "--max-noise", "0.05", *options, "-o", str(plan)]) == 0
        assert ds.Plan.load(plan).objective == ds.split(graph, network, times, noise, max_noise=0.05, **weights).objective
        assert main(["pareto", *problem, *options, "-o", str(tmp_path / "front.csv")]) == 0
        front = ds.pareto(graph, network, times, noise, **weights).frame
        assert pd.read_csv(tmp_path / "front.csv")["objective"].to_numpy() == pytest.approx(front["objective"].to_numpy())
    for command in ("split", "pareto"):
        for options, told in (
            (["--latency-weight", "-1"], "latency_weight is -1.0; it must be a number, 0 or more"),
            (["--latency-weight", "nan"], "latency_weight is nan; it must be a number, 0 or more"),
            (["--energy-weight", "inf"], "energy_weight is inf; it must be a number, 0 or more"),
            (["--latency-weight", "0"], "latency_weight and energy_weight are both 0; there is nothing to minimise"),
        ):
            capsys.readouterr()
            assert main([command, *problem, *options]) == 2
            assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["noise", "m.onnx", "-o", "n.csv", "--imagse", "photos"],
            "noise: error: unrecognized arguments: --imagse (did you mean '--images'?) photos",
        ),
        (
            ["noise", "m.onnx", "-o", "n.csv", "--image", "photos"],
            "unrecognized arguments: --image (did you mean '--images'?) photos",
        ),
        (
            ["split", "a", "b", "c", "--maxnoise=3"],
            "split: error: unrecognized arguments: --maxnoise=3 (did you mean '--max-noise'?)",
        ),
        (["--versoin", "undeploy", "net", "--at", "a:1"], "unrecognized arguments: --versoin (did you mean '--version'?)"),
    ],
)
def test_an_option_that_is_not_there_is_told_with_the_nearest(words, told, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("words", [["status"], ["undeploy", "net"]])
def test_where_no_agent_answers_it_is_told_how_one_starts(words, capsys):
    assert main([*words, "--at", "127.0.0.1:9"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dnnsplit: no agent answers at 127.0.0.1:9 (")
    assert error.endswith("; start one there, dnnsplit agent --name NAME, or give another address\n")


@pytest.mark.parametrize(
    ("options", "ends"), [([], "'a b' --at h:1"), (["--name", "net", "--keys", "keys/a"], "net --at h:1 --keys keys/a")]
)
def test_who_interrupts_a_deployment_is_told_how_it_ends(monkeypatch, capfd, options, ends):
    def interrupted(*arguments, **given):
        raise KeyboardInterrupt

    monkeypatch.setattr(ds, "deploy", interrupted)
    assert main(["deploy", "a b.onnx", "--at", "h:1", *options]) == 130
    told = f"dnnsplit: interrupted; what the agents have begun goes on, until: dnnsplit undeploy {ends}\n"
    assert capfd.readouterr().err == told


def test_plans_of_a_table_with_gaps_say_so(tmp_path, capsys):
    samples = ds.NoiseSamples.load(NOISE)
    rows = [i for i, scheme in enumerate(samples.schemes) if scheme.sum() <= 1]
    samples.only(rows).save(tmp_path / "few.csv")
    assert main(["split", MODEL, NETWORK, TIMES, "--noise", str(tmp_path / "few.csv"), "--max-noise", "0.05"]) == 0
    assert (
        "dnnsplit: plans are of the 13 of 4096 schemes that were measured; --degree 2 predicts the others\n"
        in capsys.readouterr().err
    )
    assert main(["split", MODEL, NETWORK, TIMES, "--noise", NOISE, "--max-noise", "0.05"]) == 0
    assert "plans are of" not in capsys.readouterr().err


@pytest.mark.parametrize(("half", "told"), [(0.079, True), (0.009, False)])
def test_a_profile_says_how_well_it_knows_a_busy_machine(tmp_path, monkeypatch, capsys, half, told):
    monkeypatch.setattr("dnnsplit.profiling.kernels.half_width", lambda seconds: half)
    model, out = str(conv_net(tmp_path / "m.onnx")), str(tmp_path / "t.csv")
    assert main(["profile", model, "--images", "random", "--server", "a", "--runs", "5", "--splits", "0", "-o", out]) == 0
    assert ("dnnsplit: the time of the whole model is known to 7.9 % only: something else" in capsys.readouterr().err) == told
