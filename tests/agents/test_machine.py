"""What an agent knows of its machine: quotas of control groups of both versions, and whose folder it is."""

import math
from types import SimpleNamespace

import pytest

from dnnsplit.agents import machine
from dnnsplit.ground.errors import DeployError


def tree(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("process", "files", "share"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/cpu.max": "25000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.25),  # that of the group around it
        ("0::/a\n", {"a/cpu.max": "800000 100000\n"}, 4.0),  # no more than there are
        ("0::/a\n", {"a/cpu.max": "150000 100000\n"}, 1.5),
        # a container in whose view its own group is the root
        ("3:cpu:/docker/1\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        (
            "3:cpu,cpuacct:/a\n0::/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "1000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "4000\n"},
            0.25,
        ),
        ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 4.0),
        ("5:memory:/a\n", {"memory/a/cpu.max": "1 100\n"}, 4.0),
        ("0::/gone\n", {}, 4.0),
    ],
)
def test_the_quota_of_cpus_is_that_of_its_groups(tmp_path, monkeypatch, process, files, share):
    monkeypatch.setattr(machine, "cpus", lambda: 4)
    monkeypatch.setattr(machine, "_measured", lambda: math.inf)
    (tmp_path / "process").write_text(process)
    assert machine.cpu_quota(tree(tmp_path / "groups", files), tmp_path / "process") == pytest.approx(share)


@pytest.mark.parametrize(("got", "idle", "quota"), [(0.25, 0.75, 0.25), (0.25, 0.0, 4.0), (1.0, 0.0, 4.0)])
def test_where_its_groups_cannot_be_seen_the_quota_is_measured_but_where_others_are_in_the_way(
    tmp_path, monkeypatch, got, idle, quota
):
    """Clocks that a thread with so much of a CPU sees, while so much of the machine is idle."""
    now = [0.0]

    def passes(share):
        def clock():
            now[0] += 1e-3
            return share * now[0]

        return clock

    monkeypatch.setattr(machine, "cpus", lambda: 4)
    monkeypatch.setattr(machine.time, "monotonic", passes(1.0))
    monkeypatch.setattr(machine.time, "thread_time", passes(got))
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: SimpleNamespace(idle=idle * now[0]))
    (tmp_path / "process").write_text("3:cpu:/gone\n")
    assert machine.cpu_quota(tmp_path, tmp_path / "process") == pytest.approx(quota, rel=0.05)


def test_what_an_agent_uses_itself_is_the_least_of_a_while(monkeypatch):
    now, used = [0.0], [0.0]
    monkeypatch.setattr(machine.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(machine.time, "process_time", lambda: used[0])
    own = machine.OwnUse()
    assert own.cpus() == 0.0
    for share in (0.5, 0.02, 0.3):
        now[0], used[0] = now[0] + 6.0, used[0] + 6.0 * share
        least = own.cpus()
    assert least == pytest.approx(0.02)


def test_a_folder_is_that_of_one_agent(tmp_path):
    first = machine.alone(tmp_path)
    with pytest.raises(DeployError, match="another agent uses"):
        machine.alone(tmp_path)
    first.close()
    machine.alone(tmp_path).close()


def test_what_it_tells_is_plain(tmp_path):
    facts, load = machine.facts(tmp_path), machine.load(tmp_path)
    assert facts["memory_bytes"] > load["free_memory_bytes"] > 0
    assert 0 < facts["cpu_quota"] <= facts["cpus"]
    assert facts["machine"] == machine.machine_id()
