"""`python -m pealm_kindergarten`."""

import pytest

import pealm_kindergarten as kg
from pealm_kindergarten.__main__ import main


def test_it_prints_the_stories_of_a_seed(capsys: pytest.CaptureFixture[str]):
    assert main(["--seed", "4", "-n", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [kg.story(4, index) for index in range(3)]


def test_it_explains_a_story(capsys: pytest.CaptureFixture[str]):
    assert main(["--explain", kg.story(0, 0)]) == 0
    assert "One derivation" in capsys.readouterr().out
    assert main(["--explain", "Mia found a red bell."]) == 1
    assert "stops making sense in sentence 1" in capsys.readouterr().out
    for text in ("", "caf\u00e9", "-n 3"):  # whatever a model writes
        assert main([f"--explain={text}"]) == 1
        assert "stops making sense in sentence 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["-n", "0"],
        ["-n", "many"],
        ["--seed", "spring"],
        ["--explain", "one line\nand another"],
        ["--tell"],
        ["extra"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("python -m pealm_kindergarten: ")
