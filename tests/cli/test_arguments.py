"""What the command line takes as a number, a path or a text, and what it can print where."""

import io
import sys

import numpy as np
import pytest
from helpers.paths import MODEL, NETWORK, TIMES
from helpers.small_models import conv_net, images

from dnnsplit.cli.main import main


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_standard_output_cannot_hold_is_written_by_numbers(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main(["network", "schema"]) == 0
    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert ("\\xb5" in text) is (encoding == "ascii")
    assert ("µ" in text) is (encoding != "ascii")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "b/\udcff.ipynb"],
        ["status", "--at", "\udcff:1"],
        ["split", "\udce9.onnx", NETWORK, TIMES],
        ["profile-scale", TIMES, "--source", "device", "--server", "q\udcff", "--factor", "2", "-o", "x.csv"],
    ],
)
def test_arguments_that_are_no_utf8_are_refused(words, capsys):
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("dnnsplit: the argument '")
    assert "is no UTF-8" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["split", MODEL, NETWORK, TIMES, "--shape", f"x={'9' * 5000}"], "is not NAME=1,3,640,640"),
        (["split", MODEL, NETWORK, TIMES, "--shape", "x=٣"], "is not NAME=1,3,640,640"),
        (["split", MODEL, NETWORK, TIMES, "--max-noise", "1_0"], "invalid float value: '1_0'"),
        (["split", MODEL, NETWORK, TIMES, "--degree", "٣"], "invalid int value: '٣'"),
        (["split", MODEL, NETWORK, TIMES, "-o", ""], "the path is empty"),
        (["cut", MODEL, "plan.json", "-o", ""], "the path is empty"),
        (["profile-scale", TIMES, "--source", "device", "--server", "device", "--factor", "2", "-o", "x.csv"],
         "'device' would take the place of itself"),
        (["agent", "--name", "a", "--parent", "-1", "--folder", "a"], "parent is -1; give the number of a process"),
        (["keys", "a=é"], "'a': 'é' is no name of a host"),
        (["keys", "a=999.1.1.1"], "'a': '999.1.1.1' is no IP address"),
    ],
)  # fmt: skip
def test_what_is_no_number_path_or_host_is_refused(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as error:  # argparse ends by itself
        code = error.code
    assert code == 2
    assert told in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_as_many_images_as_none_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    conv_net(tmp_path / "net.onnx")
    np.save(tmp_path / "images.npy", images(4))
    for count in ("0", "-1"):
        assert main(["noise", "net.onnx", "--images", "images.npy", "--count", count, "-o", "noise.csv"]) == 2
        assert f"{count} images are asked for; give 1 or more" in capsys.readouterr().err
