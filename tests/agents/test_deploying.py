"""Deployments by agents on this machine: real processes and sockets, links that a file emulates, ends by kill -9."""

import subprocess
import sys
import time
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc as triton
from helpers.agents import SIZE, Asking, children, deployed, model, network_file, whole
from helpers.processes import is_running, wait_until
from helpers.small_models import images
from onnx import TensorProto, helper

import dnnsplit as ds
from dnnsplit.agents.local import LocalAgents
from dnnsplit.agents.wire import Remote
from dnnsplit.ground.errors import DeployError, OptionError
from dnnsplit.ground.files import sha256


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Three agents, a model and pictures."""
    folder = tmp_path_factory.mktemp("site")
    path, pictures = model(folder)
    with ds.local_agents(network_file(folder / "net.yaml"), folder / "agents") as agents:
        yield agents, path, pictures


@pytest.fixture
def running(site):
    """The model deployed in float32, where it was before if a test before has left it there."""
    agents, path, pictures = site
    network_file(agents.emulate)
    agents.wait("device", "edge", "cloud")
    with deployed(agents, path, pictures, max_noise=0) as client:
        wait_until(lambda: client.state["servers"] == ["edge"] and client.state["status"] == "running", 60, lambda: client.state)
        yield client


def steps(client, name):
    return [line for line in client.lines if line.startswith(name)]


def switches(client):
    return client.switches["reason"].tolist()


def test_from_a_model_to_an_answer(site, running):
    agents, path, _ = site
    x = images(1, SIZE)
    for name, array in whole(path, x).items():
        np.testing.assert_allclose(running.infer({"x": x})[name], array, rtol=1e-4, atol=1e-5)
    told = [line.split(":")[0] for line in running.lines]
    order = [
        "model",
        "register",
        "push",
        "profile",
        "probe",
        "noise",
        "solve",
        "why",
        "cut",
        "push parts",
        "start",
        "first request",
    ]
    assert [step for step in dict.fromkeys(told)] == order
    assert "edge" in steps(running, "why")[0]
    with triton.InferenceServerClient(running.address) as client:
        given = triton.InferInput("x", list(x.shape), "FP32").set_data_from_numpy(x)
        np.testing.assert_allclose(client.infer("net", [given]).as_numpy("out"), whole(path, x)["out"], rtol=1e-4, atol=1e-5)
    found = ds.status(agents.at)
    assert found["source"] == "device"
    assert {name: member["alive"] for name, member in found["members"].items()} == dict.fromkeys(
        ("device", "edge", "cloud"), True
    )
    assert found["deployments"]["net"]["state"]["plan"] == running.state["plan"]
    assert "edge" in repr(running)


def test_again_nothing_is_measured(site, running):
    agents, path, pictures = site
    before = {job: job.stat().st_mtime_ns for job in agents.folder.glob("*/jobs/*/result.json")}
    assert len(before) >= 1  # agents of one machine share a profile
    with deployed(agents, path, pictures, max_noise=0) as client:
        assert all("known" in line for line in steps(client, "profile") if "whole model" in line)
        assert "it is there" in steps(client, "push")[0]
        assert client.address == running.address
    assert {job: job.stat().st_mtime_ns for job in agents.folder.glob("*/jobs/*/result.json")} == before


def test_another_noise_limit_changes_the_plan_and_loses_no_request(site, running):
    agents, path, pictures = site
    with Asking(running, path) as asking:
        asking.more()
        with deployed(agents, path, pictures, max_noise=1e-9) as client:
            assert client.address == running.address
            assert any("schemes of int8" in line for line in client.lines)
        asking.more()
    assert not asking.lost
    assert not asking.wrong


def test_a_link_drops_under_clients(site, running):
    agents, path, _ = site
    with Asking(running, path) as asking:
        asking.more()
        network_file(agents.emulate, device_edge=20e3)
        wait_until(lambda: "edge" not in running.state["servers"] and running.state["status"] == "running", 60)
        asking.more()
        # the agent at either end may be the first to see it
        assert any("went from 20 MB/s to 20 kB/s" in reason for reason in switches(running)), switches(running)
        network_file(agents.emulate)
        wait_until(lambda: running.state["servers"] == ["edge"] and running.state["status"] == "running", 60)
        asking.more()
    assert not asking.lost
    assert not asking.wrong
    chosen = running.switches.dropna(subset=["stayed_s"])
    assert len(chosen)
    assert (chosen["promised_s"] < chosen["stayed_s"] / 1.1).all()


def test_a_network_file_that_cannot_be_used_is_told_and_all_stays(site, running):
    agents, _, _ = site
    whole_file = agents.emulate.read_text()
    before = ds.status(agents.at)["members"]["device"]["state"]["links"]["edge"]["bandwidth_bytes_per_s"]
    agents.emulate.write_text(whole_file.replace("device", "phone"))

    def problems():
        return {name: member["state"]["problem"] for name, member in ds.status(agents.at)["members"].items()}

    wait_until(lambda: "there is no server 'device'" in problems()["device"], 30, problems)
    assert ds.status(agents.at)["members"]["device"]["state"]["links"]["edge"]["bandwidth_bytes_per_s"] == before
    assert "is not followed" in (agents.folder / "device.err").read_text()
    agents.emulate.write_text(whole_file)
    wait_until(lambda: set(problems().values()) == {""}, 30, problems)


def test_a_small_change_is_no_reason(site, running):
    agents, _, _ = site
    network_file(agents.emulate, device_edge=18e6)
    time.sleep(3.0)
    assert not any("18 MB/s" in reason for reason in switches(running))


def test_a_host_is_lost_and_comes_back(site, running):
    agents, path, _ = site
    with Asking(running, path) as asking:
        asking.more()
        agents.kill("edge")
        wait_until(
            lambda: "edge" not in running.state["servers"] and running.state["status"] == "running", 60, lambda: running.state
        )
        asking.more()
        assert any(reason.startswith("edge is lost") for reason in switches(running))
        agents.start("edge")
        wait_until(
            lambda: running.state["servers"] == ["edge"] and running.state["status"] == "running", 60, lambda: running.state
        )
        asking.more()
    assert not asking.wrong
    assert all("is gone" in text or "cannot be reached" in text or "UNAVAILABLE" in text for text in asking.lost)


@pytest.mark.parametrize(
    ("name", "what"), [("edge", "stage.changing"), ("device", "stage.changing"), ("device", "agents.deployer")]
)
def test_what_an_agent_started_is_started_anew(site, running, name, what):
    agents, path, _ = site
    address = running.address
    (process,) = children(agents, name, what)
    with Asking(running, path) as asking:
        asking.more()
        process.kill()
        wait_until(lambda: any(p.pid != process.pid for p in children(agents, name, what)), 60)
        asking.more()
    assert not asking.wrong
    wait_until(lambda: running.state["status"] == "running", 60)
    assert running.state["address"] == address


def test_the_first_agent_is_killed_and_goes_on_where_it_was(site, running):
    agents, path, _ = site
    old = [process.pid for process in children(agents, "device", "dnnsplit")]
    agents.kill("device")
    wait_until(lambda: not any(map(is_running, old)))  # its stages and its deployer end with it
    agents.start("device")
    with Asking(running, path) as asking:
        asking.more()
    assert not asking.wrong


def test_two_deployments_side_by_side(site, running, tmp_path):
    agents, path, _ = site
    other, pictures = model(tmp_path, "other")
    with (
        deployed(agents, other, pictures, max_noise=0) as client,
        Asking(running, path, 2) as asking,
        Asking(client, other, 2) as others,
    ):
        asking.more()
        others.more()
        ds.undeploy("other", agents.at)
        asking.more()
    assert not asking.wrong
    assert not asking.lost
    assert not others.wrong
    wait_until(lambda: len(children(agents, "edge", "stage.changing")) == 1)
    assert list(ds.status(agents.at)["deployments"]) == ["net"]
    with pytest.raises(DeployError, match=r"there is no deployment 'other' \(did you mean|there is no deployment 'other'"):
        ds.undeploy("other", agents.at)


def test_a_host_that_comes_later_takes_part(tmp_path):
    path, pictures = model(tmp_path)
    with ds.local_agents(network_file(tmp_path / "net.yaml"), tmp_path / "agents") as agents:
        for name in ("edge", "cloud"):
            agents.kill(name)
        wait_until(lambda: agents.alive() == {"device"})
        with deployed(agents, path, pictures, max_noise=0) as client, Asking(client, path) as asking:
            assert client.state["servers"] == ["device"]
            asking.more()
            agents.start("edge")
            wait_until(
                lambda: client.state["servers"] == ["edge"] and client.state["status"] == "running", 60, lambda: client.state
            )
            asking.more()
            assert any(reason.startswith("edge has joined") for reason in switches(client))
        assert not asking.lost
        assert not asking.wrong


def test_a_host_whose_disk_is_full_is_left_out(tmp_path):
    path, pictures = model(tmp_path)
    with ds.local_agents(network_file(tmp_path / "net.yaml"), tmp_path / "agents") as agents:
        agents.kill("edge")
        agents.options = {"edge": ["--disk", "1 kB"]}
        agents.start("edge")
        agents.wait("edge")
        with deployed(agents, path, pictures, max_noise=0) as client:
            assert "edge" not in client.state["servers"]
            assert "do not fit" in client.state["left_out"]["edge"]
            x = images(1, SIZE)
            np.testing.assert_allclose(client.infer({"x": x})["out"], whole(path, x)["out"], rtol=1e-4, atol=1e-5)


def test_with_keys_only_who_has_some_may_deploy_or_ask(tmp_path):
    path, pictures = model(tmp_path)
    ds.make_keys(["device", "edge", "cloud"], tmp_path / "keys")
    with ds.local_agents(network_file(tmp_path / "net.yaml"), tmp_path / "agents", tmp_path / "keys") as agents:
        with deployed(agents, path, pictures, max_noise=0) as client:
            assert client.state["servers"] == ["edge"]
            x = images(1, SIZE)
            np.testing.assert_allclose(client.infer({"x": x})["out"], whole(path, x)["out"], rtol=1e-4, atol=1e-5)
            with ds.Client(client.address, "net", 3.0) as stranger, pytest.raises(DeployError, match="UNAVAILABLE"):
                stranger.infer({"x": x})
        with pytest.raises(DeployError):
            ds.status(agents.at)


class TestRefused:
    def test_what_is_wrong_is_told_before_anything_is_done(self, tmp_path):
        path, pictures = model(tmp_path)
        with pytest.raises(OptionError, match="3 problems") as told:
            ds.deploy(path, "127.0.0.1:1", name="../x", images=pictures, max_nose=0.1, budget=0)
        for part in (
            "the deployment '../x' cannot be used",
            "no option 'max_nose' (did you mean 'max_noise'?)",
            "budget is 0; give 1 or more",
        ):
            assert part in str(told.value)
        with pytest.raises(OptionError, match="needs images to calibrate int8 on"):
            ds.deploy(path, "127.0.0.1:1", max_noise=0.1)
        for file in (tmp_path / "none.npy", path):
            with pytest.raises(OptionError, match=r"is not readable as a .npy or .npz file of images"):
                ds.deploy(path, "127.0.0.1:1", images=file)

    def test_nobody_is_there(self, tmp_path):
        with pytest.raises(DeployError, match=r"127.0.0.1:1"):
            ds.status("127.0.0.1:1")

    def test_an_agent_on_other_addresses_needs_keys(self):
        from dnnsplit.agents.options import AgentOptions

        with pytest.raises(OptionError, match=r"agents run what others send, so on 0.0.0.0 it needs keys"):
            AgentOptions("edge", host="0.0.0.0")
        with pytest.raises(OptionError, match="4 problems"):
            AgentOptions("../edge", host="0.0.0.0", disk_bytes=0, powers={"compute_w": -1})


def test_what_a_library_would_run_is_refused_by_the_agent_itself(site, tmp_path):
    """Whoever deploys checks it too; this one comes past that."""
    agents, _, _ = site
    file = tmp_path / "odd.onnx"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Odd", ["x"], ["y"], domain="evil")], "odd", ends[:1], ends[1:])
    file.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("evil", 1)]).SerializeToString())
    given = {"files": {file.name: sha256(file)}, "model": file.name, "shapes": {}, "images": "", "count": 0, "server": "device"}
    given |= {"setting": "default", "layers": 0, "provider": "cpu"}
    with closing(Remote(agents.at)) as remote:
        remote.push(file, sha256(file))
        assert remote.ask("job", kind="profile", given=given)["state"] == "running"
        found = wait_until(
            lambda: [told for told in [remote.ask("job", kind="profile", given=given)] if told["state"] != "running"]
        )
    assert found[0]["state"] == "failed"
    assert "operators of the domain 'evil' need a library, and none is loaded here" in found[0]["problem"]


def test_energies_count_where_somebody_knows_the_powers(site, running, tmp_path):
    agents, path, pictures = site
    with deployed(agents, path, pictures, max_noise=0, energy_weight=1.0, latency_weight=0.0) as client:
        assert client.state["energy_j"] > 0  # of the emulated servers the file says what they draw
    with ds.local_agents(["device"], tmp_path) as alone:
        with pytest.raises(DeployError, match="nobody knows what device draws while it sends; start its agent with --transmit"):
            ds.deploy(path, alone.at, images=pictures, max_noise=0, energy_weight=1.0, told=lambda line: None)
        client = ds.deploy(path, alone.at, images=pictures, max_noise=0, told=lambda line: None)
        assert client.state["energy_j"] is None
        client.close()


def test_local_agents_end_with_the_process_that_started_them(tmp_path):
    program = "import sys, time, dnnsplit as ds\nwith ds.local_agents(['device'], sys.argv[1]) as agents:\n"
    program += "    print(agents.processes['device'].pid, flush=True)\n    time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        agent = int(parent.stdout.readline())
        assert is_running(agent)
        parent.kill()
    wait_until(lambda: not is_running(agent))


METER = """
import time
from types import SimpleNamespace
class ZeusMonitor:
    cpu_indices, gpu_indices, soc_is_present = [0], [], False
    def begin_window(self, key, sync_execution):
        self.at = time.perf_counter(), time.process_time()
    def end_window(self, key, sync_execution):
        seconds, cpu = time.perf_counter() - self.at[0], time.process_time() - self.at[1]
        found = {"cpu_energy": {0: 3 * cpu + 2 * seconds}, "gpu_energy": {}, "dram_energy": None, "soc_energy": None}
        return SimpleNamespace(time=seconds, **found)
"""


def test_what_counters_tell_is_measured_where_energy_counts(tmp_path, monkeypatch):
    """A package in the place of zeus tells 2 W, and 3 W for each CPU of the process that asks."""
    path, pictures = model(tmp_path)
    for name, text in {"zeus/__init__.py": "", "zeus/monitor.py": METER, "zeus-0.1.dist-info/METADATA": "Version: 0.1"}.items():
        (tmp_path / "meter" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "meter" / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "meter"))
    lines, asked = [], {"images": pictures, "max_noise": 0, "energy_weight": 1.0}
    with LocalAgents(tmp_path / "agents", options={"device": ["--transmit", "1 W"]}).running(["device"]) as agents:
        wait_until(lambda: "drawn_w" in ds.status(agents.at)["members"]["device"]["state"]["load"])
        drawn_w = ds.status(agents.at)["members"]["device"]["state"]["load"]["drawn_w"]
        assert 2 < drawn_w < 8
        with ds.deploy(path, agents.at, told=lines.append, **asked) as client:
            (told,) = steps(SimpleNamespace(lines=lines), "power")
            assert "compute measured by dnnsplit power with zeus 0.1 (cpu 0)" in told
            state = client.state
            # what is drawn above idle is of the time that the process runs, which may have to wait for a CPU
            assert 0.5 < state["energy_j"] / state["promised_s"] < 3.5
