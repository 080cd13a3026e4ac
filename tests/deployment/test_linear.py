"""Twice as many parts, or hosts, are about twice as much work for a stage."""

from pathlib import Path

from helpers.counting import Name, check_linear

from dnnsplit.cutting.bundle import Bundle, Output, Part, Wire
from dnnsplit.deployment.hosts import of_stages, read_hosts
from dnnsplit.deployment.stage.buffers import Request
from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.stage.work import Runner


def bundle(count):
    """Parts of which each reads what the one before makes, on two servers by turns."""
    names = [Name(f"t{i}") for i in range(count + 1)]
    wires = [Wire(name, "float32", (1, 4)) for name in names]
    servers = [Name(f"s{k}") for k in range(2)]
    parts = [Part(Name(f"part{i}"), servers[i % 2], "", "", (names[i],), (names[i + 1],)) for i in range(count)]
    outputs = (Output(names[-1], names[-1]),)
    return Bundle(Path(), "model", "", servers[0], tuple(servers), tuple(wires[:1]), outputs, tuple(wires[1:]), tuple(parts))


def test_the_wiring_of_a_stage():
    check_linear(bundle, lambda one: Runner(one, "s0", Emulation(), {}).close())
    assert bundle(3).needed == {"t1": ("s1",), "t2": ("s0",), "t3": ()} or bundle(3).needed == {"t1": ("s1",), "t2": ("s0",)}


def test_a_request_on_a_stage():
    def answered(one):
        request = Request("id", 1.0, 1.0, one.parts, [output.wire for output in one.outputs])
        done = []
        for wire in (*one.inputs, *one.wires):
            request.take(wire.name, None)
            done += request.due()
        assert done == list(one.parts)
        assert not request.waiting
        assert not request.awaited

    check_linear(bundle, answered)


def test_parts_are_due_once_their_last_input_is_there():
    parts = [Part("none", "s0", "", "", (), ("a",)), Part("both", "s0", "", "", ("x", "y"), ("b",))]
    request = Request("id", 1.0, 1.0, parts)
    assert request.due() == parts[:1]
    request.take("x", None)
    request.take("x", None)
    assert request.due() == []
    request.take("y", None)
    assert request.due() == parts[1:]
    assert request.due() == []


def test_the_addresses_of_many_hosts():
    def hosts(count):
        return {Name(f"s{k}"): f"host{k}:7000" for k in range(count)}

    check_linear(hosts, lambda given: of_stages(read_hosts(given), [*given]))
