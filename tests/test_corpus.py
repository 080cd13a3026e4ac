"""Inputs that were read wrongly once, or are odd: each is taken or refused in our words. `bench/trust_fuzz.py` finds them."""

import sys
from contextlib import suppress

import pytest
from helpers.paths import ROOT

import dnnsplit as ds

CORPUS = ROOT / "tests" / "corpus"


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        from trust_targets import targets

        yield targets(tmp_path_factory.mktemp("targets"))
        for name in ("trust_targets", "deploy_cut"):
            sys.modules.pop(name, None)


def test_every_folder_is_of_a_target(targets):
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
        ("instance/shared-is-no-json", ds.ModelError, "layer 'layer' has shared constants that are not readable"),
    ],
)
def test_what_was_read_wrongly_once_is_refused(path, error, told, targets):
    with pytest.raises(error, match=told):
        targets[path.partition("/")[0]].read((CORPUS / path).read_bytes())
