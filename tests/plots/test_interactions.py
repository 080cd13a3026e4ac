"""Who calls whom: what the figure says is what the code does."""

import ast
import inspect
import json
import sys

import nbformat
import pytest
from helpers.paths import ROOT
from tritonclient.grpc import service_pb2

import dnnsplit as ds
from dnnsplit.agents import agent, jobs, wire
from dnnsplit.agents.jobs import Jobs
from dnnsplit.deployment.wire.channels import SERVICE, Stub
from dnnsplit.plots.interactions import CALLS, ROLES, Call

SLIDES = """Deployer ModelPool ModelProfiler ExecProfiler NetStatePool ServerMonitor Optimizer ModelDivider Inferencer FrontEnd
    Registry"""
CALL_IDS = [f"{call.source}-{call.target}-{call.what.__name__}" for call in CALLS]


def called(source):
    """What a module calls, or hands on to be called, as it is written: "f", "a.f", "a.b.f"; of a notebook without its magics."""
    source = "\n".join(line for line in source.splitlines() if not line.startswith(("%", "!")))
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {ast.unparse(part) for call in calls for part in (call.func, *call.args) if isinstance(part, ast.Name | ast.Attribute)}


def called_by_people():
    """The names that the notebooks and the command line call."""
    found = set()
    for path in (ROOT / "dnnsplit" / "cli").glob("*.py"):
        found |= called(path.read_text(encoding="utf-8"))
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                found |= called(cell.source)
    return found


def test_the_roles_are_those_of_the_slides():
    assert {role.name for role in ROLES} == set(SLIDES.split())
    assert {call.source for call in CALLS} | {call.target for call in CALLS} == {role.name for role in ROLES}
    assert all(role.parts and role.note for role in ROLES)


@pytest.mark.parametrize("call", CALLS, ids=CALL_IDS)
def test_what_passes_is_in_the_signature(call):
    told = inspect.signature(call.what)
    assert set(call.passes) <= set(told.parameters)
    needed = [p.name for p in told.parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [name for name in needed if name not in (*call.passes, "self", "context")] == []
    assert call.returns == ("" if told.return_annotation in ("None", "NoReturn") else told.return_annotation)
    assert call.what.__module__.startswith("dnnsplit.")


def asked(source):
    """The questions that a module asks agents: remote.ask("job", ...), or with the name of a question as an argument `what`."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "ask"]
    given = [call.args[0] for call in named if call.args] + [k.value for call in calls for k in call.keywords if k.arg == "what"]
    return {node.value for node in given if isinstance(node, ast.Constant)}


def answered():
    """What an agent calls for each question: the names in its table of answers, and in the methods that this table names."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(agent))))
    methods = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    tables = [node for node in nodes if isinstance(node, ast.AnnAssign | ast.AugAssign) and ast.unparse(node.target) == "answers"]
    found = {}
    for table in (node.value for node in tables if isinstance(node.value, ast.Dict)):
        for key, value in zip(table.keys, table.values, strict=True):
            does = value if isinstance(value, ast.Lambda) else methods[value.attr]
            found[key.value] = called(ast.unparse(does))
    return found


@pytest.mark.parametrize("call", CALLS, ids=CALL_IDS)
def test_the_caller_calls_it(call):
    source = "" if call.by is None else inspect.getsource(sys.modules[call.by.__module__])
    there = called_by_people() if call.by is None else called(source)
    name, owner = call.what.__name__, call.what.__qualname__.rpartition(".")[0]
    if call.asks == "Put":  # pieces of a file, which come as they are
        assert [one for one in there if one.endswith((".push", "Remote.push"))]
        assert 'f"/{AGENT}/{what}") for what in ("Ask", "Put", "Get")' in inspect.getsource(wire.Remote)
        assert "self.pool.put" in called(inspect.getsource(agent))
        return
    if call.asks == "job":
        assert "self.jobs.do" in answered()["job"]
        there = called(inspect.getsource(jobs))
    elif call.asks:
        there = answered()[call.asks]
    if call.asks:
        assert call.asks in asked(source)
    if name == "ModelInfer":  # over the wire, by the stub
        assert [one for one in there if one.endswith(("stub.infer", "stub.infer.with_call"))]
        assert '"/{SERVICE}/ModelInfer"' in inspect.getsource(Stub)
    elif owner and "self" in inspect.signature(call.what).parameters:  # of whatever the object is called
        assert [one for one in there if one.endswith(f".{name}")]
    else:
        assert ("ds." if call.by is None else "") + call.what.__qualname__ in there


def test_every_question_between_agents_is_drawn_or_is_of_no_role():
    small = {"held", "keep"}  # beside Put: what is there already, and what is to stay
    assert set(answered()) - small == {call.asks for call in CALLS if call.asks not in ("", "Put")}


def test_the_calls_over_the_wire_are_those_of_the_protocol():
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == SERVICE
    wired = [call.what for call in CALLS if "Stage." in call.what.__qualname__]
    assert wired
    assert all(what.__name__ in service.methods_by_name for what in wired)


def test_each_call_goes_to_a_part_of_its_target():
    parts = {role.name: role.parts for role in ROLES}
    for call in CALLS:
        owner = call.what.__qualname__.split(".")[0]
        # what a notebook calls is where the process it reaches begins
        own = parts[call.source if call.what is ds.deploy else call.target]
        assert owner in [part.__qualname__ for part in own], call.label
        if call.by is not None:
            inside = {"Runner": "Inferencer", "Hosts": "Deployer", "Client": "FrontEnd"}.get(call.by.__name__)
            children = call.by is Jobs and call.source in ("ModelProfiler", "ExecProfiler")  # they lay files out for these
            assert inside == call.source or children or call.by in parts[call.source], call.label


def test_a_call_that_is_none_cannot_be_drawn():
    assert Call("Deployer", "Optimizer", ds.split, ("graph", "network"), 0).label == "split(graph, network)"
    assert Call("Deployer", "Optimizer", ds.split, (), 0).returns == "Plan"
    assert Call("Deployer", "Inferencer", ds.serve, (), 0).returns == ""


def test_no_text_hides_another_or_leaves_its_box(tmp_path):
    figure, numbers = ds.plots.interactions()
    figure.set_dpi(220)  # as it is saved: at less, glyphs are wider
    figure.draw_without_rendering()
    (axis,) = figure.axes
    texts = [(text.get_text(), text.get_window_extent()) for text in axis.texts if text.get_text()]
    hidden = [(one, other) for i, (one, a) in enumerate(texts) for other, b in texts[:i]
              if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2]  # fmt: skip
    assert not hidden
    boxes = [patch.get_window_extent() for patch in axis.patches if hasattr(patch, "get_width")]
    assert len(boxes) == len(ROLES)
    across = [text for text, a in texts for box in boxes
              if a.x0 < box.x1 and a.x1 > box.x0 and a.y0 < box.y1 and a.y1 > box.y0
              and not (a.x0 >= box.x0 - 1 and a.x1 <= box.x1 + 1 and a.y0 >= box.y0 - 3 and a.y1 <= box.y1 + 3)]  # fmt: skip
    assert not across
    stored = json.loads(ds.plots.save(figure, tmp_path, "interactions", numbers)["json"].read_text(encoding="utf-8"))
    assert len(stored["calls"]) == len(CALLS)
    assert {"source": "Deployer", "target": "Optimizer", "call": "split(graph, network, times, noise)", "returns": "Plan",
            "asks": "", "slides": "optimize"} in stored["calls"]  # fmt: skip
    assert stored["roles"]["Registry"] == {"parts": ["Registry"], "where": "in the first agent", "process": False}
