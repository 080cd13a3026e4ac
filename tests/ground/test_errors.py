"""Every deliberate error has one base, and several problems make one message."""

import pickle

import pytest

from dnnsplit.ground import errors
from dnnsplit.ground.errors import DnnSplitError, ModelError, NetworkError, nearest, raise_problems


def test_all_errors_share_the_base_and_are_value_errors():
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert len(classes) == 10
    assert all(issubclass(c, DnnSplitError) for c in classes)
    assert issubclass(DnnSplitError, ValueError)
    assert len({c.__doc__ for c in classes}) == len(classes)


def test_nearest_suggests_the_closest_name():
    assert nearest("egde", ("device", "edge", "cloud")) == " (did you mean 'edge'?)"


def test_nearest_lists_a_few_options_when_none_is_close():
    assert nearest("zzz", ("device", "edge")) == " (there is: 'device', 'edge')"


def test_nearest_is_silent_when_the_list_would_be_long_or_empty():
    assert nearest("zzz", [f"layer{i}" for i in range(9)]) == ""
    assert nearest("zzz", []) == ""


def test_nearest_takes_names_that_are_no_text():
    assert nearest(12, [123, 7]) == " (did you mean '123'?)"


def test_no_problem_raises_nothing():
    raise_problems(NetworkError, "network", [])


def test_one_problem_is_one_line():
    with pytest.raises(NetworkError) as error:
        raise_problems(NetworkError, "network 'n'", ["it has no server"])
    assert str(error.value) == "network 'n': it has no server"


def test_several_problems_are_a_list():
    with pytest.raises(ModelError) as error:
        raise_problems(ModelError, "graph", ["first", "second"])
    assert str(error.value) == "graph: 2 problems\n  * first\n  * second"


def test_a_long_list_is_cut_and_counted():
    with pytest.raises(ModelError) as error:
        raise_problems(ModelError, "graph", [f"p{i}" for i in range(7)], most=3)
    assert str(error.value).splitlines() == ["graph: 7 problems", "  * p0", "  * p1", "  * p2", "  * ... and 4 more"]


def test_an_error_tells_its_reason_apart_from_the_way_out_and_the_details():
    error = NetworkError("it is down", "turn it on", ["the plug", "the fuse"])
    assert str(error) == "it is down; turn it on\n  * the plug\n  * the fuse"
    assert (error.reason, error.details) == ("it is down", ("the plug", "the fuse"))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.reason, copy.details) == (NetworkError, str(error), error.reason, error.details)


def test_the_nearest_is_looked_for_only_where_it_is_printed(monkeypatch):
    looked = []
    monkeypatch.setattr(errors, "nearest", lambda name, options: looked.append(name) or " (did you mean 'a'?)")
    near = errors.nearest_of(["a", "b"])
    lost = [f"{name}{near(name)}" for name in map(str, range(1000))]
    assert looked == [str(n) for n in range(errors.PRINTED)]
    assert lost[0] == "0 (did you mean 'a'?)"
    assert lost[-1] == "999"
