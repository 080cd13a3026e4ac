"""What a deployment takes as images: files, folders of pictures, arrays; or what is drawn."""

import numpy as np
from helpers.small_models import conv_net, images
from PIL import Image

import dnnsplit as ds
from dnnsplit.agents.deploy import _images


def test_a_folder_of_pictures_becomes_one_file(tmp_path, monkeypatch):
    graph = ds.load(conv_net(tmp_path / "net.onnx"))
    (tmp_path / "photos").mkdir()
    for number in range(5):
        Image.new("RGB", (30, 20), (number, 0, 255)).save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.setattr("dnnsplit.agents.deploy.PICTURES", 4)
    told = []
    file, count = _images(str(tmp_path / "photos"), graph, tmp_path, "BGR,scale=1", told.append)
    assert count == 4
    assert np.load(file)[:, :, 0, 0].tolist() == [[255, 0, number] for number in range(4)]
    assert len(told) == 1
    assert "4 of 5 pictures in" in told[0]


def test_files_and_arrays_are_as_they_were(tmp_path):
    graph, given = ds.load(conv_net(tmp_path / "net.onnx")), images(3)
    np.save(tmp_path / "x.npy", given)
    (tmp_path / "there").mkdir()
    for one in (given, {"x": given}, tmp_path / "x.npy"):
        file, count = _images(one, graph, tmp_path / "there", "", print)
        found = np.load(file)
        assert count == 3
        assert (np.asarray(found["x"] if isinstance(one, dict) else found) == given).all()
    assert _images(None, graph, tmp_path, "", print) == (None, 0)
