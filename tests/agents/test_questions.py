"""What is no question to an agent is refused in words, whatever it is, and holds none of its threads."""

import math

import grpc
import pytest

from dnnsplit.agents.registry import LONGEST_WAIT_S, Registry
from dnnsplit.agents.wire import AGENT, Remote, serve_agent
from dnnsplit.ground.errors import DeployError

DEEP = b"[" * 100_000


@pytest.fixture
def address():
    def answer(who, given):
        return {"items": sorted(given["items"]), "one": given["number"] / 1.0}

    def read(digest, offset):
        return 3, b"abc"[offset:]

    server, port = serve_agent({"sort": answer}, lambda *piece: -1, read, "127.0.0.1", 0, None)
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.mark.parametrize(
    ("call", "content"),
    [
        ("Ask", b""), ("Ask", b"no JSON"), ("Ask", b"[]"), ("Ask", b"3"), ("Ask", b'{"what": "sort"}'), ("Ask", DEEP),
        ("Ask", b'{"what": "sort", "given": ' + DEEP), ("Ask", b'{"what": ["sort"], "given": {}}'), ("Ask", b"\xff\xfe"),
        ("Ask", b'{"what": "sort", "given": []}'), ("Ask", b'{"what": "sort", "given": {}}'),
        ("Ask", b'{"what": "sort", "given": {"items": [1, "a"], "number": 1}}'),
        ("Ask", b'{"what": "sort", "given": {"items": null, "number": 1}}'),
        ("Ask", b'{"what": "sort", "given": {"items": [], "number": 1' + b"0" * 400 + b"}}"),
        ("Get", b"{}"), ("Get", b'{"digest": "d", "offset": -1}'), ("Get", b'{"digest": "d", "offset": 1e400}'), ("Put", b"x"),
    ],
)  # fmt: skip
def test_what_is_no_question_is_refused(address, call, content):
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{AGENT}/{call}")(content, timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "this is no question to an agent" in refused.value.details()


def test_a_question_is_answered(address):
    remote = Remote(address)
    assert remote.ask("sort", items=[2, 1], number=3) == {"items": [1, 2], "one": 3.0}
    with pytest.raises(DeployError, match=r"nothing here answers to 'sotr' \(did you mean 'sort'\?\)"):
        remote.ask("sotr")
    remote.close()


@pytest.mark.parametrize("limit_s", [math.nan, math.inf, -1.0, LONGEST_WAIT_S + 1, 1e300])
def test_nobody_waits_for_a_change_for_ever(limit_s):
    with pytest.raises(DeployError, match="give a number from 0 to 60"):
        Registry().wait(0, limit_s)
