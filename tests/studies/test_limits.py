"""Noise limits, in units of the outputs or as shares of the noise that all layers in int8 make."""

import math

import numpy as np
import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.studies.limits import noise_limits


def table(**frame):
    return ds.fit_noise(ds.NoiseSamples(pd.DataFrame(frame)), "measured")


SMALL = table(
    a=[0, 1, 0, 1], b=[0, 0, 1, 1], noise=[0, 1e-4, 2e-4, 4.1234e-4], noise_std=[0.0, 1e-5, 1e-5, 2e-5], noise_images=[16] * 4
)


def test_numbers_stay_and_shares_are_of_the_noise_of_all_layers():
    found = noise_limits([0, 0.05, "50 %", "100%", " 2.5 % "], SMALL)
    assert found["max_noise"].tolist() == pytest.approx([0, 0.05, 2.07e-4, 4.13e-4, 1.04e-5])  # rounded up to three digits
    assert found["share_%"].tolist() == pytest.approx(100 * found["max_noise"] / 4.1234e-4)


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_the_whole_share_allows_all_layers_and_no_share_none(confidence):
    none, every = noise_limits(["0 %", "100 %"], SMALL, confidence)["max_noise"]
    noise = SMALL.bounded(confidence) if confidence else SMALL
    assert none == 0
    assert 1 <= every / noise.of(["a", "b"]) < 1.01


def test_without_a_layer_for_int8_shares_are_of_nothing():
    found = noise_limits([0.05, "50 %"], table(noise=[0.0]), 0.95)
    assert found["max_noise"].tolist() == [0.05, 0]
    assert all(math.isnan(share) for share in found["share_%"])


def test_what_is_no_limit_is_told_all_at_once():
    with pytest.raises(ds.OptionError, match=r"'half' is no number.*(?s:.*)-0.1 is no number.*(?s:.*)'-5 %' is no number"):
        noise_limits(["half", -0.1, 0.1, "-5 %"], SMALL)
    with pytest.raises(ds.OptionError, match="nan is no number"):
        noise_limits([np.nan], SMALL)
