"""The second example: pages of text are drawn; the detector is found where its package is installed."""

from importlib.util import find_spec

import numpy as np
import pytest
from helpers.small_models import double

import dnnsplit as ds
from dnnsplit.examples import ppocr
from dnnsplit.noise import metrics
from dnnsplit.runtime import sessions

installed = pytest.mark.skipif(find_spec("rapidocr") is None, reason=f"PP-OCR's detector is not installed: {ppocr.INSTALL}")


def test_pages_are_drawn_alike_for_one_seed_and_differ_between_seeds():
    pages, again, others = (ds.examples.text_pages(3, seed, height=96, width=160) for seed in (1, 1, 2))
    assert pages.shape == (3, 3, 96, 160)
    assert pages.dtype == np.float32
    assert -1 <= pages.min() < 0 < pages.max() <= 1
    np.testing.assert_array_equal(pages, again)
    assert not any(np.array_equal(page, other) for page in pages for other in others)
    np.testing.assert_array_equal(ds.examples.text_pages(2, 1, 96, 160), pages[:2])  # one by one, whatever the count
    assert all(len(np.unique(page)) > 20 for page in pages)  # letters have soft edges; an empty page has none


@pytest.mark.parametrize("holds", [None, "another_model.onnx"])
def test_a_detector_that_is_not_there_is_refused_with_what_to_install(tmp_path, monkeypatch, holds):
    package = None
    if holds:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / holds).write_bytes(b"")
        package = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})()
    monkeypatch.setattr(ppocr, "find_spec", lambda name: package)
    with pytest.raises(
        ds.ModelError, match=r"Apache-2\.0, and nothing else of it is needed: pip install --no-deps rapidocr=="
    ) as told:
        ds.examples.ppocr_det()
    assert (f"has no models/{ppocr.DETECTOR}.onnx" if holds else "rapidocr is not installed") in str(told.value)


def test_pages_are_drawn_of_the_size_that_the_detector_reads(tmp_path):
    graph = ds.load(double(tmp_path / f"{ppocr.DETECTOR}.onnx", {"x": [1, 3, 64, 96]}))
    drawn = ds.examples.load_images(count=2, seed=1, graph=graph)
    np.testing.assert_array_equal(drawn, ds.examples.text_pages(2, 1, height=64, width=96))


@installed
def test_the_detector_finds_the_text_and_its_noise_is_measured():
    graph = ds.examples.ppocr_det(160)
    pages = ds.examples.load_images(count=4, seed=1, graph=graph)
    session = sessions.session(graph.model.path, sessions.session_options(1))
    for page in pages:
        (text,) = session.run(None, {"x": page[None]})
        assert text.shape == (1, 1, 160, 160)
        paper = np.abs(page - np.median(page, axis=(1, 2), keepdims=True)).max(axis=0) < 0.1
        assert 0.01 < (text > 0.5).mean() < 0.8
        assert (text[0, 0] > 0.5)[~paper].mean() > 2 * (text[0, 0] > 0.5)[paper].mean()  # where there is ink
    calibration = ds.calibrate(graph, pages[:2])
    alone = ds.measure_noise(graph, pages[2:], 6, "alone", calibration=calibration, progress=False)
    layers = [name for name in alone.layers if name not in metrics.fragile(alone)]
    samples = ds.measure_noise(graph, pages[2:], layers, budget=12, calibration=calibration, progress=False)
    assert samples.noise[samples.schemes.any(axis=1)].min() > 0
    times = ds.flops_times(graph, "device", 1e9, 1e10, layers)
    most = float(samples.noise.max()) / 2
    plan = ds.split(graph, ds.examples.network("device"), times, ds.fit_noise(samples, "measured"), max_noise=most)
    assert 0 < plan.noise <= most
