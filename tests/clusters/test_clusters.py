"""The files of examples/clusters: the Slurm scripts run with fakes of its commands, and the YAML has what is needed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pealm_core.config.settings import TrainSettings
from pealm_core.contract.fields import settings_of

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "examples" / "clusters"
SRUN = """#!/bin/bash
# As Slurm: one process for each task, with its number, and the largest exit code.
[[ $1 == --kill-on-bad-exit=0 ]] && shift
pids=()
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
    pids+=($!)
done
most=0
for pid in "${pids[@]}"; do
    wait "$pid"
    code=$?
    ((code > most)) && most=$code
done
exit "$most"
"""
SCONTROL = """#!/bin/bash
case $1 in
show) [[ $2 == hostnames && $3 == node-list ]] && printf 'localhost\\nother\\n' ;;
requeue) echo "$2" >>requeued ;;
esac
"""
WARN = """
import os, signal
from pealm_core import hookimpl
@hookimpl
def pealm_step_end(trainer):
    if trainer.step == 3:  # Slurm warns each process; here, not all of them in the same step
        os.kill(os.getpid(), signal.SIGUSR1)
"""
MODEL = "char-transformer --model.block-size 16 --model.n-layer 1 --model.n-embd 16 --model.n-head 2 --batch-size 8"


@pytest.fixture
def sbatch(tmp_path: Path) -> Any:
    """Run a script as a job of two tasks: `sbatch("slurm.sh", words)`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tmp_path / "book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)

    def run(script: str, words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node-list"}
        env |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "PEALM_CACHE": str(tmp_path / "cache")}
        env["PATH"] = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = ["bash", str(CLUSTERS / script), *words.split()]
        return subprocess.run(command, cwd=tmp_path, env={**env, **more}, capture_output=True, text=True, timeout=200)

    return run


def rows(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_job_out_of_time_is_requeued_and_resumes(sbatch: Any, tmp_path: Path) -> None:
    (tmp_path / "warn.py").write_text(WARN)
    words = f"{MODEL} --input.text book.txt --steps 5 --out r"
    first = sbatch("slurm.sh", words, PEALM_PLUGINS=str(tmp_path / "warn.py"))
    assert first.returncode == 128 + 10, first.stderr
    assert (tmp_path / "requeued").read_text() == "77\n" and rows(tmp_path / "r") == [0, 1, 2, 3]
    second = sbatch("slurm.sh", words)
    assert second.returncode == 0 and "step-00000003" in second.stdout, second.stderr
    assert rows(tmp_path / "r") == [0, 1, 2, 3, 4, 5] and ", 2 processes" in second.stdout
    assert (tmp_path / "requeued").read_text() == "77\n"  # not again


def test_a_job_without_a_run_folder_is_refused(sbatch: Any) -> None:
    done = sbatch("slurm.sh", f"{MODEL} --input.text book.txt")
    assert done.returncode == 2 and done.stderr == "slurm.sh: --out RUN is needed, to resume after a requeue\n"


def test_an_array_trains_each_rate_in_a_folder_of_its_own(sbatch: Any, tmp_path: Path) -> None:
    task = {"SLURM_ARRAY_TASK_ID": "2", "RUNS": str(tmp_path / "runs"), "SLURM_NTASKS": "1"}
    done = sbatch("slurm_array.sh", f"{MODEL} --input.text book.txt --steps 1 --eval-every 0", **task)
    assert done.returncode == 0, done.stderr
    config = (tmp_path / "runs" / "rate-1.2e-3" / "config.toml").read_text()
    assert re.search(r"^lr = 0\.0012$", config, re.MULTILINE)


def options(words: list[str]) -> dict[str, str]:
    """Return the options of a `pealm train` command line: `--steps 5` and `--steps=5`."""
    text = " ".join(words).replace("=", " ").split()
    return {word: text[place + 1] for place, word in enumerate(text) if word.startswith("--")}


def check_train(words: list[str]) -> dict[str, str]:
    """Check that plain options of `pealm train` exist; return all of them."""
    found = options(words)
    known = {f"--{key}" for key in settings_of(TrainSettings)} | {"--out", "--preset", "--input.npy-shards"}
    assert found.keys() <= known, found.keys() - known
    assert "--out" in found
    return found


def test_the_kubernetes_job_divides_its_batch_for_each_number_of_workers() -> None:
    job = yaml.safe_load((CLUSTERS / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    elastic, worker = job["spec"]["elasticPolicy"], job["spec"]["pytorchReplicaSpecs"]["Worker"]
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch"  # the operator's default container
    assert elastic["minReplicas"] <= worker["replicas"] <= elastic["maxReplicas"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus}" in container["command"] and container["command"][-3:] == [
        "-m",
        "pealm",
        "train",
    ]
    found = check_train(container["args"])
    for workers in range(elastic["minReplicas"], elastic["maxReplicas"] + 1):
        local, rest = divmod(int(found["--batch-size"]), workers * gpus)
        assert rest == 0 and local % int(found["--micro-batch-size"]) == 0, workers


def test_the_skypilot_task_starts_torchrun_on_each_node() -> None:
    task = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
    assert task.keys() == {"name", "resources", "num_nodes", "file_mounts", "setup", "run"}
    parse = subprocess.run(["bash", "-n", "-c", task["run"]], capture_output=True, text=True)
    assert parse.returncode == 0, parse.stderr
    words = shlex.split(task["run"].replace("<<<", ""))
    found = check_train(words[words.index("train") :])
    processes = task["num_nodes"] * int(task["resources"]["accelerators"].partition(":")[2])
    local, rest = divmod(int(found["--batch-size"]), processes)
    assert rest == 0 and local % int(found["--micro-batch-size"]) == 0
    assert {"/runs", "/tokens"} == set(task["file_mounts"]) and found["--out"].startswith("/runs/")
