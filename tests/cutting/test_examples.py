import numpy as np
import pytest

from dnnsplit.cutting.bundle import Wire
from dnnsplit.cutting.examples import FEW, Example, drawn, example_of


def again(array, name="t"):
    """The values that a tensor like this one is warmed up with."""
    return drawn(Wire(name, array.dtype.name, array.shape), {"t": example_of("t", array)})


@pytest.mark.parametrize("array", [
    np.array([2, -1, 3]), np.array(7, np.int32), np.array([[True, False]]), np.array([255, 0], np.uint8),
    np.zeros((0, 2), np.int64), np.array([2**63 + 5], np.uint64),
])  # fmt: skip
def test_few_whole_numbers_come_back_as_they_were(array):
    found = again(array)
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "int8"])
def test_others_are_drawn_within_what_was_seen(dtype):
    array = np.linspace(3, 99, FEW + 1).astype(dtype)
    found = again(array)
    np.testing.assert_array_equal(found, again(array))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert 3 <= found.min() < 10
    assert 90 < found.max() <= 99


def test_only_finite_values_count():
    array = np.array([np.nan, np.inf, -2.0, -1.0, -np.inf], np.float32)
    assert example_of("t", array) == Example("t", -2.0, -1.0)
    assert example_of("t", array[:2]) == Example("t")
    wide = np.array([np.finfo(np.float64).min / 2, np.finfo(np.float64).max / 2])
    assert np.isfinite(again(wide)).all()


def test_a_tensor_that_was_never_seen_is_not_zero():
    assert (again(np.zeros(5, np.int64), "other") == 1).all()
    assert again(np.zeros(5, bool), "other").all()
    found = again(np.zeros((3, 4), np.float32), "other")
    assert ((found > 0) & (found < 1)).all()
    assert again(np.float32(0).reshape(()), "other").shape == ()
