"""Inputs that were read wrongly once, or are odd: each is taken or refused in our words. `bench/trust_fuzz.py` finds them."""

import sys
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.paths import ROOT
from hypothesis import HealthCheck, given, settings

import dnnsplit as ds
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import Records

CORPUS = ROOT / "tests" / "corpus"


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        import trust_fuzz

        yield trust_fuzz
        for name in ("trust_fuzz", "trust_inputs", "trust_targets", "deploy_cut"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def targets(bench, tmp_path_factory):
    return bench.targets(tmp_path_factory.mktemp("targets"))


def test_every_folder_is_of_a_target(bench, targets):
    assert set(bench.NAMES) == set(targets)
    assert set(bench.GUIDED) == {name for name, target in targets.items() if target.guided}
    assert {path.name for path in CORPUS.iterdir()} <= set(targets)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_is_kept_is_taken_or_refused(path, targets):
    with suppress(ds.DnnSplitError):
        targets[path.parent.name].read(path.read_bytes())


@pytest.mark.parametrize(
    ("path", "error", "told"),
    [
        ("onnx/name-is-no-utf8", ds.ModelError, "a name or a text in it is no UTF-8, b'b.xe0anch'"),
        ("onnx/dequantize-makes-nothing", ds.ModelError, "the DequantizeLinear '' makes nothing"),
        ("bundle/plan-of-numbers", ds.DeployError, "the plan in it has another form"),
        ("sweep/half-of-a-character", ds.OptionError, "line 2, column 15: a text has half of a character"),
        ("record/results-called-as-columns", ds.OptionError, "the result 'run' is a column of every table of runs"),
        ("instance/shared-is-no-json", ds.ModelError, "has shared constants that are not readable"),
    ],
)
def test_what_was_read_wrongly_once_is_refused(path, error, told, targets):
    with pytest.raises(error, match=told):
        targets[path.partition("/")[0]].read((CORPUS / path).read_bytes())


def test_a_character_in_two_halves_is_one(targets):
    assert targets["hosts"].read((CORPUS / "hosts" / "pair-of-halves").read_bytes()) == {"\N{GRINNING FACE}": "10.0.0.7:7002"}


def test_what_is_no_refusal_is_found(bench, tmp_path):
    def read(content):
        if content == b"refused":
            raise ds.OptionError("no")
        if content.startswith(b"odd"):
            {}[content]

    watch = bench.Watch(bench.Target("json", read, ()), tmp_path)
    for content in (b"good", b"refused", b"odd and long", b"odd"):
        watch(content)
    assert watch.counts == {"executions": 4, "taken": 1, "refused": 1}
    (found,) = watch.found.values()
    assert found["what"].startswith("KeyError")
    assert Path(found["input"]).read_bytes() == b"odd"  # the shortest is kept


@pytest.mark.parametrize("form", ["json", "yaml", "csv", "tables", "onnx", "message"])
def test_inputs_of_every_form_are_made(form, bench, targets):
    seeds = [seed for target in targets.values() if target.form == form for seed in target.seeds]

    @settings(max_examples=100, database=None, deadline=None, suppress_health_check=[*HealthCheck])
    @given(bench.inputs(form, seeds))
    def made(content):
        assert isinstance(content, bytes)

    made()


def test_records_that_are_no_json_are_refused():
    message = Infer.response((CORPUS / "wire" / "records-are-no-json").read_bytes())
    with pytest.raises(ds.DeployError, match="what a server tells of a request is not readable"):
        Records.read(message.head)
