"""Twice as many layers, or servers, are about twice as much work to look up and to tell."""

import pytest
from helpers.counting import chain, check_linear, star, times_of

import dnnsplit as ds


@pytest.mark.parametrize("work", [
    lambda times: ds.LayerTimes(times.frame),
    lambda times: [times.seconds(layer, "s1") for layer in times.frame["layer"].unique()],
    lambda times: (repr(times), times._repr_html_(), times.without("s1")),
    lambda times: [times.slowdown_of("s1", [layer]) for layer in times.frame["layer"].unique()],
])  # fmt: skip
def test_times_of_many_layers(work):
    check_linear(lambda count: times_of(chain(count), star(3)), work)


def test_times_of_many_servers():
    check_linear(lambda count: times_of(chain(3), star(count)), lambda times: [times.seconds_of(s) for s in times.servers])
    check_linear(lambda count: [times_of(chain(3), star(2, lambda n, k=k: f"{k}{n}")) for k in range(count)],
                 lambda tables: ds.joined(*tables), 30)  # fmt: skip
