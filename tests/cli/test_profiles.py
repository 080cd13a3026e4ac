"""Times of several servers put together, and servers estimated, on the command line; and images as people have them."""

import numpy as np
import pandas as pd
import pytest
from helpers.small_models import conv_net, pictures
from PIL import Image

import dnnsplit as ds
from dnnsplit.cli.main import main


@pytest.fixture
def table(tmp_path):
    """A model of three layers for int8, and times of its layers on the device."""
    graph = ds.load(conv_net(tmp_path / "net.onnx"))
    rows = [(layer, "device", "float32", 0.01 * (1 + number)) for number, layer in enumerate(graph.layer_names)]
    ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"])).save(tmp_path / "device.csv")
    return graph, tmp_path


def test_a_server_is_scaled_and_joined(table, capsys):
    _, folder = table
    device, edge, both = (str(folder / f"{name}.csv") for name in ("device", "edge", "both"))
    scaled = ["profile-scale", device, "--source", "device", "--server", "edge", "-o", edge]
    assert main([*scaled, "--factor", "0.25", "--note", "a data sheet"]) == 0
    assert main(["profile-join", device, edge, "-o", both]) == 0
    assert "edge" in capsys.readouterr().out
    times = ds.LayerTimes.load(both)
    assert times.seconds_of("edge") == pytest.approx(times.seconds_of("device") / 4)
    assert set(times.frame.query("server == 'edge'")["origin"]) == {"scaled"}
    assert times.frame.query("server == 'edge'")["note"].str.contains("a data sheet").all()
    assert main(["profile-join", both, edge, "-o", both]) == 2
    assert "server 'edge' has times in two tables" in capsys.readouterr().err
    assert main([*scaled, "--factor", "-1"]) == 2
    assert "factor is -1.0; it must be above 0" in capsys.readouterr().err
    assert main(["profile-scale", device, "--source", "devcie", "--server", "x", "--factor", "2", "-o", edge]) == 2
    assert "did you mean 'device'" in capsys.readouterr().err


def test_a_server_is_scaled_by_operator(table, capsys):
    graph, folder = table
    operators = sorted({layer.op_type for layer in graph.layers})
    lines = ["op_type,precision,factor", *(f"{kind},float32,{number + 2}" for number, kind in enumerate(operators))]
    (folder / "factors.csv").write_text("\n".join(lines) + "\n")
    asked = ["profile-scale", str(folder / "device.csv"), "--source", "device", "--server", "gpu", "-o", str(folder / "gpu.csv")]
    asked += ["--factor", str(folder / "factors.csv")]
    assert main(asked) == 2
    assert "pass graph= too" in capsys.readouterr().err
    assert main([*asked, "--model", str(graph.model_path)]) == 0
    times, gpu = ds.LayerTimes.load(folder / "device.csv"), ds.LayerTimes.load(folder / "gpu.csv")
    for layer in graph.layers:
        factor = operators.index(layer.op_type) + 2
        assert gpu.seconds(layer.name, "gpu") == pytest.approx(factor * times.seconds(layer.name, "device"))


def test_a_server_is_estimated_by_its_data_sheet(table, capsys):
    graph, folder = table
    asked = ["profile-flops", str(graph.model_path), "--server", "gpu", "-o", str(folder / "gpu.csv")]
    assert main([*asked, "--compute", "2 GFLOP/s", "--bandwidth", "1 TB/s"]) == 0
    times = ds.LayerTimes.load(folder / "gpu.csv")
    largest = max(graph.layers, key=lambda layer: layer.flops)
    assert times.seconds(largest.name, "gpu") == pytest.approx(largest.flops / 2e9)
    assert set(times.frame["origin"]) == {"flops"}
    assert main([*asked, "--compute", "2 GFLOPs", "--bandwidth", "1 TB/s"]) == 2
    assert "write it like '8.1 TFLOP/s'" in capsys.readouterr().err


def test_a_folder_of_pictures_goes_from_the_profile_to_the_parts(tmp_path, capsys):
    """By pictures alone; more layers, schemes and images are asked for than there are, which is told."""
    model, files = str(conv_net(tmp_path / "net.onnx")), {n: str(tmp_path / f"{n}.csv") for n in ("times", "noise")}
    (tmp_path / "photos").mkdir()
    for number, array in enumerate(pictures(9)):
        Image.fromarray(np.rint(array.transpose(1, 2, 0) * 255).astype(np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    images, both = ["--images", str(tmp_path / "photos")], "24 are wanted (16 for the calibration and 8 for the noise)"
    few = ["--server", "device", "--runs", "3", "--splits", "0"]
    assert main(["profile", model, "-o", files["times"], *images, *few]) == 0
    said = capsys.readouterr().err
    assert "holds 9 images, and 16 are wanted (16 for the calibration): 9 for the calibration are taken" in said
    assert "9 of 9 pictures in" in said
    assert "3 layers of net.onnx can run in int8, all of which are taken (--layers 12)" in said
    assert "png-1" in {form for form in ds.LayerTimes.load(files["times"]).forms.frame["form"]}
    assert main(["noise", model, "-o", files["noise"], *images, "--budget", "40"]) == 0
    said = capsys.readouterr().err
    assert f"holds 9 images, and {both}: 6 for the calibration and 3 for the noise are taken" in said
    assert "there are 7 schemes that quantize something, all of which are measured (--budget 40)" in said
    samples = ds.NoiseSamples.load(files["noise"])
    assert len(samples.frame) == 7
    network = tmp_path / "network.yaml"
    ds.Network([ds.Server("device", 2.0, 1.0)], [], "device").save(network)
    plan = str(tmp_path / "plan.json")
    assert main(["split", model, str(network), files["times"], "--noise", files["noise"], "-o", plan]) == 0
    one = ["--images", str(tmp_path / "photos" / "3.png"), "--preprocess", "stretch,scale=1/255"]
    assert main(["cut", model, plan, "-o", str(tmp_path / "parts"), *one]) == 0
    assert "3.png: stretch,RGB,NCHW,scale=1/255 to 12 x 12 (as told;" in capsys.readouterr().err
    assert main(["noise", model, "-o", files["noise"], *one[:2], "--preprocess", "strech"]) == 2
    assert "'strech' is no word or number of it (did you mean 'stretch'?)" in capsys.readouterr().err
    assert main(["noise", model, "-o", files["noise"], *one]) == 0
    assert f"holds 1 image, and {both}: the first serve all purposes" in capsys.readouterr().err
