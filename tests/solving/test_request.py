"""What is asked, as one frozen object: checked whole when it is made, and picked out of keywords."""

import pytest

import dnnsplit as ds
from dnnsplit.solving.question import ask
from dnnsplit.solving.request import Effort, Request, picked


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ds.OptionError) as error:
        Request(latency_weight=-1, max_energy_j="much", objective="latncy", routing="relays")
    assert error.value.details == (
        "latency_weight is -1; it must be a number, 0 or more",
        "max_energy_j is 'much'; it must be a number of joules, 0 or more, or None",
        "objective 'latncy' is unknown (did you mean 'latency'?)",
        "routing 'relays' is unknown (did you mean 'relay'?)",
    )


def test_keywords_of_split_are_told_apart():
    asked = {"max_noise": 0.1, "pins": {"a": "edge"}, "method": "milp", "time_limit_s": 2.0, "samples": None}
    assert picked(Request, asked) == Request(max_noise=0.1, pins={"a": "edge"})
    assert picked(Effort, asked) == Effort(method="milp", time_limit_s=2.0)


def test_a_question_can_be_asked_again_by_the_same_objective():
    graph, network, times, noise = ds.examples.tiny()
    request = Request(energy_weight=1.0, normalise="fixed", confidence=None, forbid={"fc": "edge"})
    question = ask(graph, network, times, noise, request)
    again = question.again(network.with_bandwidths({("device", "edge"): 1e9}), pins={"conv1": "edge"})
    assert again.objective is question.objective
    assert again.request.forbid == {"fc": ("edge",)}
    assert again.problem.network.link("device", "edge").bandwidth_bytes_per_s == 1e9
    assert again.network.link("edge", "device") == network.link("edge", "device")
    assert again.problem.names(again.optima.placement(0), 0)[0]["conv1"] == "edge"
    assert question.network is network
