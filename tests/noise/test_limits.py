"""What a limit on the noise means for another metric: by hand, and where there is no answer."""

import numpy as np
import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.small_models import conv_net, images

import dnnsplit as ds
from dnnsplit.noise.confidence import share_bound
from dnnsplit.noise.schemes import all_schemes


def measured(noise, loss, std=None, count=8, every=True):
    """Samples of three layers: all eight schemes, or the first ones, with their noise and their loss."""
    rows = all_schemes(3) if every else all_schemes(3)[: len(noise) + 1]
    details = pd.DataFrame({"loss": [0.0, *loss]})
    if std is not None:
        details["loss std"] = [0.0, *std]
    frame = pd.DataFrame(rows, columns=list("abc")).assign(noise=[0.0, *noise])
    return ds.NoiseSamples(frame, {"images": count}, details)


STEPS = measured([1, 2, 3, 4, 5, 6, 7], [0.01, 0.02, 0.04, 0.03, 0.06, 0.05, 0.09], [0.01] * 7)


@pytest.mark.parametrize(
    ("at_most", "share", "limit", "worst"),
    [
        (0.05, 1.0, 4, 0.04),  # 5 is the first that breaks it
        (0.04, 1.0, 4, 0.04),
        (0.03, 1.0, 2, 0.02),  # though 4 keeps it
        (0.03, 0.75, 4, 0.04),  # 3 of 4 do
        (0.05, 5 / 6, 6, 0.06),
        (0.09, 1.0, 7, 0.09),
    ],
)
def test_the_largest_limit_up_to_which_schemes_keep_it(at_most, share, limit, worst):
    found = ds.noise_for(STEPS, "loss", at_most, share)
    assert (found.limit, found.worst) == (limit, worst)
    assert found.complete
    assert found.images == 8
    assert found.correlation == pytest.approx(1 - 6 * 4 / (7 * 48))  # Spearman's, of two pairs of neighbours swapped
    assert len(found.within) == limit
    assert found.unmeasured == pytest.approx((found.within["value"] > at_most).mean())


def test_a_confidence_keeps_the_bound_over_images():
    t = 1.894579  # Student's, 7 degrees of freedom, 0.95
    bound = 0.02 + t * 0.01 / 8**0.5
    found = ds.noise_for(STEPS, "loss", bound + 1e-6, confidence=0.95)
    assert found.limit == 2
    assert found.worst == pytest.approx(bound, rel=1e-5)
    assert ds.noise_for(STEPS, "loss", bound - 1e-6, confidence=0.95).limit == 1
    assert "upper bound (0.95 confidence, each scheme alone)" in " ".join(repr(found).split())


def test_schemes_of_one_noise_are_allowed_together():
    twins = measured([1, 2, 2, 3, 4, 5, 6], [0.01, 0.01, 0.05, 0.06, 0.07, 0.08, 0.09])
    assert ds.noise_for(twins, "loss", 0.02).limit == 1


def test_what_was_not_measured_is_bounded_where_it_was_chosen_at_random():
    some = ds.noise_for(measured([1, 2, 3], [0.01, 0.02, 0.09], every=False), "loss", 0.05)
    assert not some.complete
    assert some.unmeasured == pytest.approx(1 - 0.05**0.5)  # none of two: the share that both miss with probability 0.05
    assert "if chosen at random, 0.78 of all break it at most" in " ".join(repr(some).split())


def test_a_share_has_the_bound_of_clopper_and_pearson():
    assert share_bound(0, 8, 0.95) == pytest.approx(1 - 0.05 ** (1 / 8))
    assert share_bound(np.array([8.0, 9.0]), 8, 0.95).tolist() == [1.0, 1.0]
    p = share_bound(1, 4, 0.9).item()
    assert (1 - p) ** 4 + 4 * p * (1 - p) ** 3 == pytest.approx(0.1)


def test_counts_of_classes_are_bounded_as_counts():
    some = measured([1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 0, 0.125, 0.25], [0.0] * 7)
    counted = ds.NoiseSamples(some.frame, some.origin, some.details.rename(columns=lambda c: c.replace("loss", "top1")))
    assert ds.noise_for(counted, "top1", 0.32, confidence=0.95).limit == 5  # none of 8 still leaves 0.31
    with pytest.raises(ds.NoiseError, match=r"keeps top1 <= 0.3: at the least noise, 1, it is 0, at most 0.3123 with"):
        ds.noise_for(counted, "top1", 0.3, confidence=0.95)


@pytest.mark.parametrize(
    ("samples", "asked", "match"),
    [
        (STEPS, {"metric": "los"}, r"metric 'los' was not measured with these samples \(did you mean 'loss'\?\)"),
        (STEPS, {"metric": "snr_db"}, "snr_db is less where it is worse, so it has no upper limit; take nsr"),
        (ds.NoiseSamples(STEPS.frame), {}, "save"),
        (STEPS, {"at_most": 0.001}, "no limit on the noise keeps loss <= 0.001: at the least noise, 1, it is 0.01.*max_noise=0"),
        (
            measured([1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]),
            {"at_most": 6.5},
            "does not grow with the noise.*-1.00",
        ),
        (measured([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, np.nan]), {}, "loss is no number for 1 schemes"),
        (measured([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]), {"confidence": 0.9}, "loss has no spread over images"),
        (measured([1, 2, 3, 4, 5, 6, 7], [1] * 7, [1] * 7, count=1), {"confidence": 0.9}, "loss has no spread over images"),
        (STEPS.only([0]), {}, "was not measured"),
    ],
)
def test_where_there_is_no_answer_an_error_says_why(samples, asked, match):
    with pytest.raises(ds.NoiseError, match=match):
        ds.noise_for(samples, **{"metric": "loss", **asked})


@pytest.mark.parametrize("asked", [{"share": 0}, {"share": 1.1}, {"at_most": np.inf}, {"confidence": 0.2}])
def test_options_that_are_none_are_refused(asked):
    with pytest.raises(ds.OptionError):
        ds.noise_for(STEPS, "loss", **{"at_most": 0.05, **asked})


def test_a_metric_that_never_changes_limits_nothing():
    found = ds.noise_for(measured([1, 2, 3, 4, 5, 6, 7], [0.0] * 7), "loss", 0.0)
    assert found.limit == 7
    assert np.isnan(found.correlation)
    assert "every measured scheme is within" in " ".join(repr(found).split())


def test_a_limit_is_refused_by_what_breaks_it_alone():
    assert ds.noise_for(measured([1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]), "loss", 7).limit == 7  # nothing breaks it


def test_a_loss_may_be_bounded_by_nothing():
    gains = measured([1, 2, 3, 4, 5, 6, 7], [-0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.04])
    assert ds.noise_for(gains, "loss", 0.0).limit == 3


def test_metrics_are_saved_and_read_where_they_are_asked_for(tmp_path):
    STEPS.save(tmp_path / "with.csv", ["loss"])
    read = ds.NoiseSamples.load(tmp_path / "with.csv")
    assert read.layers == STEPS.layers
    assert read.origin == STEPS.origin
    pd.testing.assert_frame_equal(read.details, STEPS.details)
    assert ds.noise_for(read, "loss", 0.05).limit == 4
    STEPS.save(tmp_path / "without.csv")
    assert ds.NoiseSamples.load(tmp_path / "without.csv").details is None
    with pytest.raises(ds.NoiseError, match=r"'los' is no metric of the details \(did you mean 'loss'\?\)"):
        STEPS.save(tmp_path / "more.csv", ["los"])
    (tmp_path / "lost.csv").write_text((tmp_path / "with.csv").read_text().replace('["loss"', '["gain"'))
    with pytest.raises(ds.NoiseError, match="other metrics are said to be"):
        ds.NoiseSamples.load(tmp_path / "lost.csv")


def test_metrics_are_kept_beside_samples_of_lossy_forms(tmp_path):
    net = ds.load(conv_net(tmp_path / "net.onnx"))
    samples = ds.measure_noise(net, images(3), 2, sources=["float16"], progress=False)
    samples.save(tmp_path / "forms.csv", ["nsr", "rho"])
    read = ds.NoiseSamples.load(tmp_path / "forms.csv")
    assert [*read.details] == ["nsr", "nsr std", "rho", "rho std"]
    assert read.details["rho"].to_numpy() == pytest.approx(samples.noise)
    assert read.sources["float16"].details["rho"].to_numpy() == pytest.approx(samples.sources["float16"].noise)
    assert read.sources["float16"].noise == pytest.approx(samples.sources["float16"].noise)
    found = ds.noise_for(read, "rho", 1e9, confidence=0.9)
    assert found.images == 3
    assert set(found.frame["source"]) == {"", "float16"}  # a form makes noise of its own
    assert found.frame["noise"].tolist() == pytest.approx(sorted([*read.noise[read.noise > 0], *read.sources["float16"].noise]))
    assert "of 4 measured (1 with inputs in lossy forms)" in " ".join(repr(found).split())


def test_the_shipped_detector_keeps_its_detections():
    task = ds.examples.yolo11n_task()
    first = ds.NoiseSamples.load(ROOT / "data" / "noise" / f"{ds.examples.SHIPPED}.first.csv")
    assert (task.layers, len(task.frame)) == (first.layers, 4096)
    assert task.noise == pytest.approx(first.noise, rel=1e-3)  # the same schemes on the same images
    assert task.origin["images_sha256"] == first.origin["images_sha256"]
    found = ds.noise_for(task, "disagreement", at_most=0.01)
    inside = task.details["disagreement"][task.noise <= found.limit]
    assert inside.max() <= 0.01
    assert task.details["disagreement"][task.noise <= 1.01 * found.limit].max() > 0.01
    assert task.details.iloc[int(np.flatnonzero(~task.schemes.any(axis=1))[0])].abs().max() == 0


def classes(images, changed):
    """Samples of a classifier, one scheme of which changes the class of some images."""
    frame = pd.DataFrame({"conv1": [0, 1], "noise": [0, 0.02]})
    shares = [0.0, changed / images]
    details = pd.DataFrame({"top1": shares, "top1 std": [0.0, float(np.std([1] * changed + [0] * (images - changed), ddof=1))]})
    return ds.NoiseSamples(frame, {"images": images}, details)


def test_a_share_that_so_few_images_cannot_tell_is_said():
    few = ds.noise_for(classes(8, 0), "top1", at_most=0.02)
    told = " ".join(repr(few).split())
    # with none of n changed, the upper bound of Clopper and Pearson is 1 - 0.05^(1/n): 0.0201 at 148, 0.0199 at 149
    assert told.endswith(
        "top1 is the share of images whose class changes, and 8 cannot tell 0.02: with 0.95 confidence that takes 149 where none "
        "of them changes"
    )
    assert "nan" not in told
    assert "cannot tell" not in repr(ds.noise_for(classes(50, 0), "top1", at_most=0.02))
    assert "cannot tell" not in repr(ds.noise_for(classes(8, 0), "top1", at_most=0))
    assert "cannot tell" not in repr(ds.noise_for(classes(149, 0), "top1", at_most=0.02, confidence=0.95))


def test_the_way_out_of_too_few_images_is_how_many_there_have_to_be():
    with pytest.raises(ds.NoiseError, match="measure on 149 images, the fewest that can show it, or on more, allow more of it"):
        ds.noise_for(classes(148, 0), "top1", at_most=0.02, confidence=0.95)
    with pytest.raises(ds.NoiseError, match="; measure on more images, allow more of it"):
        ds.noise_for(classes(200, 4), "top1", at_most=0.02, confidence=0.95)


@pytest.mark.parametrize("at_most", [1, 98])
def test_a_share_of_what_stays_is_no_share_of_what_changes(at_most):
    with pytest.raises(
        ds.OptionError, match=f"at_most is {at_most}, but top1 is a share of what changes.*where 98 % are to stay"
    ):
        ds.noise_for(classes(8, 0), "top1", at_most=at_most)
