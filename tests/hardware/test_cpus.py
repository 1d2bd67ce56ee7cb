"""Threads come from the affinity and the quota of the process, not from the machine's CPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pealm_core.hardware import launch
from pealm_core.hardware.launch import available_cpus


def files(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


GROUPS = {
    "version 2 in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
    "version 2, an outer group": (
        {
            "proc/self/cgroup": "0::/slurm/job_1/step_0\n",
            "sys/fs/cgroup/slurm/job_1/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/slurm/job_1/step_0/cpu.max": "max 100000\n",
        },
        4,
    ),
    "no limit": (
        {
            "proc/self/cgroup": "4:cpu:/\n0::/\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
        },
        64,
    ),
    "damaged": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, 64),
    "another system": ({}, 64),
}


@pytest.mark.parametrize("case", GROUPS)
def test_a_control_group_limits_the_cpus(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents, expected = GROUPS[case]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    assert available_cpus(str(files(tmp_path, contents))) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_limits_the_threads_of_each_process() -> None:
    code = """
import os, torch
from pealm_core.hardware.launch import available_cpus, limit_threads
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
torch.set_num_threads(8)
limit_threads()
print(available_cpus(), torch.get_num_threads())
"""
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=env).split() == ["1", "1"]


def test_processes_of_a_machine_divide_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(launch, "available_cpus", lambda: 7)
    monkeypatch.setattr("torch.get_num_threads", lambda: 16)
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for processes in ("1", "2", "16"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        launch.limit_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    launch.limit_threads()
    assert threads == [7, 3, 1]
