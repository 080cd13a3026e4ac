"""Quantities as people write them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnsplit.ground.errors import OptionError
from dnnsplit.ground.units import is_bare, is_number, is_whole, number, parse, show


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("5 MB/s", "bandwidth", 5e6),
        ("100 Mbit/s", "bandwidth", 12.5e6),
        ("100 Mbps", "bandwidth", 12.5e6),
        ("1 KiB/s", "bandwidth", 1024.0),
        ("  5MB/s ", "bandwidth", 5e6),
        ("5 ms", "latency", 0.005),
        ("5 us", "latency", 5e-6),
        ("5 µs", "latency", 5e-6),
        (".5s", "latency", 0.5),
        ("2.", "latency", 2.0),
        ("1e-3 s", "latency", 0.001),
        ("2.9165 W", "power", 2.9165),
        ("450 mW", "power", 0.45),
        ("16 GB", "memory", 16e9),
        ("16 GiB", "memory", 16 * 2.0**30),
        ("0.5 CPU", "speed", 0.5),
        ("1.2 ns/B", "serialise", 1.2e-9),
        ("400 mJ", "energy", 0.4),
        ("438.39 mW/(Mbit/s)", "power_per_rate", 0.43839 / 125e3),
        ("438.39 mW/Mbps", "power_per_rate", 0.43839 / 125e3),
        ("438.39 mW per Mbit/s", "power_per_rate", 0.43839 / 125e3),
        ("3 W/(MB/s)", "power_per_rate", 3e-6),
        ("3 W / (MB/s)", "power_per_rate", 3e-6),
        ("3.5 uJ/B", "power_per_rate", 3.5e-6),
        ("0.4 µJ/bit", "power_per_rate", 3.2e-6),
        (2e-6, "power_per_rate", 2e-6),
        (3, "power", 3.0),
        (0, "latency", 0.0),
        (0.25, "speed", 0.25),
    ],
)
def test_a_written_quantity_becomes_its_si_value(text, dimension, value):
    assert parse(text, dimension) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("number", [np.int64(3), np.float32(3), np.float64(3)])
def test_numpy_numbers_are_numbers(number):
    assert parse(number, "power") == 3.0


def test_a_milliwatt_is_no_megawatt():
    assert parse("1 MW", "power") == 1e9 * parse("1 mW", "power")


@pytest.mark.parametrize(
    ("text", "dimension", "says"),
    [
        ("fast", "bandwidth", ["bandwidth 'fast'", "not a number with a unit", "write it like '5 MB/s'"]),
        ("", "latency", ["latency ''", "write it like '5 ms'"]),
        ("5 MB", "bandwidth", ["'5 MB'", "unknown unit 'MB'", "B/s, bit/s", "5 MB/s"]),
        ("5 mb/s", "bandwidth", ["unknown unit 'mb/s'"]),
        ("5 minutes", "latency", ["unknown unit 'minutes'", "5 ms"]),
        ("1,5 s", "latency", ["'1,5 s'", "5 ms"]),
        ("-5 ms", "latency", ["'-5 ms'", "negative", "0 or more"]),
        (-1, "power", ["power -1", "negative"]),
        ("1e400 s", "latency", ["'1e400 s'", "not finite"]),
        (math.nan, "power", ["nan", "not finite"]),
        (math.inf, "latency", ["inf", "not finite"]),
        (None, "memory", ["memory None", "16 GB"]),
        (True, "speed", ["speed True", "0.5 CPU"]),
        ([5], "power", ["power [5]", "2.9 W"]),
        ("438 mW", "power_per_rate", ["power_per_rate '438 mW'", "unknown unit 'mW'", "W/(bit/s)", "438.39 mW/(Mbit/s)"]),
        ("438 mW/(Mbit/s", "power_per_rate", ["unknown unit 'mW/(Mbit/s'"]),
        ("438 mW/Mbit", "power_per_rate", ["unknown unit 'mW/Mbit'"]),
        ("438 s/(Mbit/s)", "power_per_rate", ["unknown unit"]),
        ("-1 J/B", "power_per_rate", ["negative"]),
        ("inf J/B", "power_per_rate", ["not finite"]),
        (1 + 2j, "power", ["(1+2j)", "2.9 W"]),
    ],
)
def test_a_wrong_quantity_is_named_with_the_way_out(text, dimension, says):
    with pytest.raises(OptionError) as error:
        parse(text, dimension)
    for part in says:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (5e6, "B/s", "5 MB/s"),
        (0.0123, "s", "12.3 ms"),
        (0, "J", "0 J"),
        (1e-6, "s", "1 µs"),
        (1.604e9, "FLOP", "1.604 GFLOP"),
        (999.96, "B", "1 kB"),
        (999.4, "B", "999.4 B"),
        (-0.5, "s", "-500 ms"),
        (math.inf, "s", "inf s"),
        (math.nan, "s", "nan s"),
        (1e-12, "s", "1e-12 s"),
    ],
)
def test_show_is_short_and_readable(value, unit, text):
    assert show(value, unit) == text


@settings(deadline=None, max_examples=30)
@given(st.floats(1e-9, 1e14))
def test_what_show_writes_parse_reads(value):
    assert parse(show(value, "W"), "power") == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "dimension", "meant"),
    [
        ("100 mbps", "bandwidth", "'100 Mbps'"), ("100 mbit/s", "bandwidth", "'100 Mbit/s'"), ("5 mB/s", "bandwidth", "'5 MB/s'"),
        ("512 mB", "memory", "'512 MB'"), ("5 mb/s", "bandwidth", "'5 MB/s' or '5 Mbit/s'"), ("1.5 gb", "memory", "'1.5 GB'"),
        ("16 gib", "memory", "'16 GiB'"), ("2 MBps", "bandwidth", "'2 MB/s' or '2 Mbps'"), ("10 MBPS", "bandwidth", "'10 Mbps'"),
    ],
)  # fmt: skip
def test_thousandths_of_bits_and_bytes_are_refused_with_what_was_meant(text, dimension, meant):
    with pytest.raises(OptionError, match="has the unknown unit") as caught:
        parse(text, dimension)
    assert str(caught.value).endswith(f"write {meant}")


@pytest.mark.parametrize("text", ["5 nB/s", "5 uB/s", "5 µbit/s", "5 ubps", "7 µB"])
def test_smaller_parts_of_bits_and_bytes_are_refused_too(text):
    for dimension in ("bandwidth", "memory"):
        with pytest.raises(OptionError, match="unknown unit"):
            parse(text, dimension)
    with pytest.raises(OptionError, match="unknown unit"):
        parse("5 mW/(mbit/s)", "power_per_rate")
    assert parse("5 mW/(Mbit/s)", "power_per_rate") == pytest.approx(4e-8)
    assert parse("1.2 ns/B", "serialise") == 1.2e-9


@pytest.mark.parametrize("value", [True, np.True_, "3", None, 1j])
def test_what_is_no_number(value):
    assert not is_whole(value)
    assert not is_number(value)


def test_whole_numbers_have_a_least_one():
    assert [is_whole(value, 3) for value in (2, 3, np.int64(4), 4.0)] == [False, True, True, False]
    assert is_number(np.float32(0.5))
    assert is_number(-3)


@pytest.mark.parametrize(
    ("text", "bare"), [("5", True), ("1e1", True), (" 5 ", True), ("0", False), ("5 B/s", False), ("inf", False), ("x", False)]
)
def test_a_number_without_a_unit_is_seen(text, bare):
    assert is_bare(text) is bare


def test_digits_are_those_of_ascii_and_spaces_are_any():
    assert parse("5\xa0MB/s", "bandwidth") == 5e6
    for text in ("٣ MB/s", "５ MB/s", "1_0 MB/s"):
        with pytest.raises(OptionError, match="write it like"):
            parse(text, "bandwidth")
    for text in ("٣", "1_0", ""):
        with pytest.raises(ValueError, match="could not convert"):
            number(text)
