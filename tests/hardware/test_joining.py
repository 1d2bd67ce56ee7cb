"""Processes that meet, wait for each other or can't: who is missing or what is wrong is said once, on one line."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pealm_core.contract.errors import UserError
from pealm_core.hardware.distributed import World
from pealm_core.hardware.launch import launched

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
LIMIT = 150  # seconds; a process that needs more hangs
PLACE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": ""}, "RANK= WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE= MASTER_ADDR=localhost MASTER_PORT=29500"),
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "MASTER_ADDR= MASTER_PORT=:"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
        ({"RANK": "-1"}, "RANK=-1"),
        ({"LOCAL_RANK": "²"}, "LOCAL_RANK=²"),
        ({"LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE=x"),
        ({"RANK": "2"}, "RANK=2 WORLD_SIZE=2"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK=1 WORLD_SIZE=1"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "RANK=0 WORLD_SIZE=0"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000: no valid place among the processes; start them by torchrun"),
    ],
)
def test_variables_that_make_no_sense(
    changes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (PLACE | changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as raised:
        launched()
    assert message in str(raised.value)
    (tmp_path / "text").write_text("to be or not to be " * 50)
    args = [sys.executable, "-m", "pealm", "train", "char-bigram", "--input.text", "text"]
    done = subprocess.run(args, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)
    assert World(*launched()) == World()
    monkeypatch.setenv("WORLD_SIZE", "1")  # and nothing else
    assert World(*launched()) == World()
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)
    assert World(*launched()) == World(rank=1, size=2, local_rank=1)


def test_an_error_without_a_text_is_not_lost() -> None:
    with pytest.raises(UserError), World().together():
        raise UserError


def test_a_network_interface_that_is_missing_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("to be or not to be " * 50)
    args = [*TORCHRUN, "-m", "pealm", "train", "char-bigram", "--input.text", "text", "--steps", "3"]
    env = os.environ | {"GLOO_SOCKET_IFNAME": "nosuch"}
    done = subprocess.run(args, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT)
    ours = [line.replace("rank 1: ", "") for line in done.stderr.splitlines() if "pealm:" in line]
    assert done.returncode == 1
    assert ours == ["pealm: can't join the other processes: no network interface nosuch (GLOO_SOCKET_IFNAME)"]
    assert "bug in pealm" not in done.stderr and "pealm_core" not in done.stderr


# What each rank's collective raises, and then which of them say something (one says a message, whichever is first).
FAILURES = """
import os, sys, torch
from pealm_core import UserError
from pealm_core.contract.errors import ElsewhereError, PealmError
from pealm_core.hardware.distributed import World, join, peers
from pealm_core.hardware.launch import launched

CLOSED = "[gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:123. This is typically caused by a crash"
NCCL = "NCCL error in: x.cpp:1, unhandled system error\\nncclSystemError: a call failed\\nLast error:\\nno route to host\\n"
world = World(*launched())
join(world, torch.device("cpu"))
for texts in ((NCCL, NCCL), (CLOSED, CLOSED)):
    try:
        with peers(world):
            raise RuntimeError(texts[world.rank])
    except PealmError as error:
        said = "" if isinstance(error, ElsewhereError) else str(error)
    os.write(1, ("|".join(sorted(world.texts(said))) + "\\n").encode())  # in one piece
try:
    with world.together():
        if world.rank == 1:
            raise UserError
    said = "nothing"
except PealmError as error:
    said = type(error).__name__
os.write(1, ("|".join(world.texts(said)) + "\\n").encode())
os._exit(0)  # as the command line does: gloo's threads may crash in the usual exit
"""


def test_a_failure_that_every_rank_has_is_told_by_one(tmp_path: Path) -> None:
    (tmp_path / "failures.py").write_text(FAILURES)
    command = [*TORCHRUN, str(tmp_path / "failures.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert sorted(set(done.stdout.splitlines())) == [
        "ElsewhereError|UserError",
        "|the processes lost their connection: Connection closed by peer [127.0.0.1]:123. "
        "This is typically caused by a crash",
        "|the processes lost their connection: no route to host",
    ]


JOIN = """
import torch
from pealm_core.hardware import distributed
distributed.PATIENCE = 0.3
world = distributed.World(*distributed.launched())
distributed.join(world, torch.device("cpu"))
print(world.gather(world.rank))
import os; os._exit(0)
"""


@pytest.mark.parametrize("first", [0, 1])
def test_the_first_process_says_that_it_waits_and_continues(first: int, tmp_path: Path) -> None:
    (tmp_path / "join.py").write_text(JOIN)
    with socket.create_server(("localhost", 0)) as server:
        port = str(server.getsockname()[1])

    def start(rank: int) -> "subprocess.Popen[str]":
        place = {"RANK": str(rank), "LOCAL_RANK": "0", "MASTER_PORT": port}  # each on its own machine
        command = [sys.executable, str(tmp_path / "join.py")]
        env = os.environ | PLACE | place
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    expected = f"pealm: rank {first} is waiting for the other 1 processes, at localhost:{port}\n"
    one = start(first)
    try:
        assert one.stderr is not None
        assert expected in iter(one.stderr.readline, "")
        other = start(1 - first)
        for process in (one, other):
            assert process.communicate(timeout=LIMIT)[0] == "[(0.0,), (1.0,)]\n"
    finally:
        one.kill()
