"""Deployers that fail: started anew, later each time; what they said is a step of the deployment."""

import json
import sys

from dnnsplit.agents import deployments as module
from dnnsplit.agents.deployments import STEPS, Deployments


def test_a_deployer_that_fails_again_and_again_is_put_off_longer_each_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    found = Deployments(tmp_path, [sys.executable, "-c", "import sys; sys.exit('nothing works')"])
    ask = found.answers()
    ask["deploy"]("", {"name": "net", "request": {}})
    pauses = []
    for _ in range(4):
        found._begin("net", found._children.get("net"))
        child = found._children["net"]
        child.wait()
        found._begin("net", child)
        assert found._children["net"] is child  # not yet
        pauses.append(found._due["net"] - now[0])
        now[0] = found._due["net"]
    assert pauses == [module.PAUSE_S * factor for factor in (1, 2, 4, 8)]
    steps = [json.loads(line) for line in (tmp_path / "net" / STEPS).read_text().splitlines()]
    assert [step["text"] for step in steps] == ["has ended and is started anew: nothing works"] * 4
    ask["deploy"]("", {"name": "net", "request": {}})  # who asks anew need not wait
    found._begin("net", child)
    assert found._children["net"] is not child
    found.end()
