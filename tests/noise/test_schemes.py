"""0/1 rows that say which layers run in int8."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnsplit.ground.errors import NoiseError, OptionError
from dnnsplit.noise.schemes import all_schemes, names_of, pack, pack_schemes, row_of, sample_schemes, unpack


def test_all_schemes_count_in_binary_with_the_first_column_lowest():
    assert all_schemes(2).tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert all_schemes(0).shape == (1, 0)
    assert all_schemes(3).dtype == np.int8


def test_the_row_of_all_schemes_is_its_packed_number():
    assert pack_schemes(all_schemes(6)).tolist() == list(range(64))


def test_packing_one_scheme_by_hand():
    assert pack_schemes([1, 0, 1, 1]).tolist() == [1 + 4 + 8]
    assert pack_schemes(np.array([[False, True]])).tolist() == [2]


def test_sixty_two_layers_still_fit():
    assert pack_schemes(np.ones((1, 62))).tolist() == [2**62 - 1]


def test_more_layers_than_bits_are_refused():
    with pytest.raises(OptionError, match="70 layers"):
        pack_schemes(np.eye(70))


def test_samples_start_with_none_each_alone_and_all():
    rows = sample_schemes(4, 10)
    assert rows[0].tolist() == [0, 0, 0, 0]
    assert rows[1:5].tolist() == np.eye(4, dtype=int).tolist()
    assert rows[5].tolist() == [1, 1, 1, 1]
    assert rows.dtype == np.int8


def test_asking_for_as_many_as_there_are_gives_all():
    assert sample_schemes(3, 8).tolist() == all_schemes(3).tolist()
    assert sample_schemes(3, 500).tolist() == all_schemes(3).tolist()


def test_the_seed_repeats_and_another_seed_differs():
    assert (sample_schemes(12, 50, seed=1) == sample_schemes(12, 50, seed=1)).all()
    assert (sample_schemes(12, 50, seed=1) != sample_schemes(12, 50, seed=2)).any()


def test_no_samples_are_an_empty_table():
    assert sample_schemes(3, 0).shape == (0, 3)


def test_a_negative_number_is_refused():
    with pytest.raises(OptionError, match="-1"):
        sample_schemes(3, -1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 6), st.integers(1, 70), st.integers(0, 5))
def test_samples_are_distinct_and_as_many_as_wanted(count, number, seed):
    rows = sample_schemes(count, number, seed)
    assert rows.shape == (min(number, 2**count), count)
    assert len(set(pack_schemes(rows).tolist())) == len(rows)
    assert not rows[0].any()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), max_size=80))
def test_names_rows_and_numbers_say_the_same(bits):
    layers = [f"n{i}" for i in range(len(bits))]
    names = names_of(layers, bits)
    assert names == tuple(f"n{i}" for i, bit in enumerate(bits) if bit)
    assert row_of(layers, reversed(names)).tolist() == bits
    assert unpack(pack(bits), len(bits)) == tuple(bits)
    if len(bits) <= 62:
        assert pack_schemes(row_of(layers, names)).tolist() == [pack(bits)]


def test_all_unknown_layers_of_a_scheme_are_named():
    with pytest.raises(NoiseError, match=r"(?s)2 problems.*'conv3' is not a quantizable layer \(did you mean.*'x'"):
        row_of(("conv1", "conv2"), ("conv1", "x", "conv3"))
