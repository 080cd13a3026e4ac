"""What an agent knows of its machine: quotas of control groups of both versions, and whose folder it is."""

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
        ("0::/a\n", {"a/cpu.max": "400000 100000\n"}, 1.0),  # one thread has one CPU at most
        (
            "3:cpu,cpuacct:/a\n0::/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "1000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "4000\n"},
            0.25,
        ),
        ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 1.0),
        ("5:memory:/a\n", {"memory/a/cpu.max": "1 100\n"}, 1.0),
        ("0::/gone\n", {}, 1.0),
    ],
)
def test_the_share_of_a_cpu_is_that_of_its_groups(tmp_path, process, files, share):
    (tmp_path / "process").write_text(process)
    assert machine.cpu_share(tree(tmp_path / "groups", files), tmp_path / "process") == pytest.approx(share)


def test_a_folder_is_that_of_one_agent(tmp_path):
    first = machine.alone(tmp_path)
    with pytest.raises(DeployError, match="another agent uses"):
        machine.alone(tmp_path)
    first.close()
    machine.alone(tmp_path).close()


def test_what_it_tells_is_plain(tmp_path):
    facts, load = machine.facts(tmp_path), machine.load(tmp_path)
    assert facts["memory_bytes"] > load["free_memory_bytes"] > 0
    assert 0 < facts["cpu_share"] <= 1
    assert facts["machine"] == machine.machine_id()
