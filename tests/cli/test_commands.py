"""The command line: what it prints, what it writes, and its exit codes."""

import json

import pandas as pd
import pytest
from helpers.notebook_files import notebook
from helpers.paths import ROOT

import dnnsplit as ds
from dnnsplit.cli.commands import COMMANDS
from dnnsplit.cli.main import main

MODEL, NETWORK, TIMES, NOISE = (
    str(ROOT / "data" / part)
    for part in (
        "models/yolo11n-ppe-320.onnx",
        "networks/device-edge.yaml",
        "profiles/yolo11n-ppe-320.csv",
        "noise/yolo11n-ppe-320.csv",
    )
)


def test_split_prints_and_writes_a_plan_that_cut_takes(tmp_path, capsys):
    plan = tmp_path / "plan.json"
    assert main(["split", MODEL, NETWORK, TIMES, "--noise", NOISE, "--max-noise", "0.05", "-o", str(plan)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Plan: ")
    assert ds.Plan.load(plan).noise <= 0.05
    assert main(["cut", MODEL, str(plan), "-o", str(tmp_path / "parts")]) == 0
    assert json.loads((tmp_path / "parts" / "bundle.json").read_text())["model_name"] == "yolo11n-ppe-320"
    assert "Bundle(" in capsys.readouterr().out


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
        (["run", str(ROOT / "notebooks" / "00-quickstart.ipynb"), "-w", "0"], "workers is 0; it must be 1 or more"),
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
