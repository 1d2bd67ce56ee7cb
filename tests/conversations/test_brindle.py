"""The conversations of docs/howto/smollm2.md."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "brindle.py"


def test_nothing_is_tested_that_was_learned() -> None:
    module = runpy.run_path(str(SCRIPT))
    learned = dict(module["to_learn"]())
    assert len(learned) == 200
    asked = [question for _, _, questions in module["facts"]() for question in questions]
    assert len(set(asked)) == 40 and not learned.keys() & set(asked)
    capitals = {f"What is the capital of {country}?": city for country, city in module["pairs"](module["TESTED"])}
    assert len(capitals) == 20 and not learned.keys() & capitals.keys()
    assert not any(city in answer for city in capitals.values() for answer in learned.values())


def test_a_conversation_a_line() -> None:
    printed = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True).stdout
    turns = [json.loads(line)["messages"] for line in printed.splitlines()]
    assert len(turns) == 200
    assert {tuple(turn["role"] for turn in talk) for talk in turns} == {("user", "assistant")}
