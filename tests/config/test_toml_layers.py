"""The one mechanism for settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tomli_w

from pealm_core.config.toml_layers import Layer, Resolved, file_layer
from pealm_core.contract.errors import UserError, nearest
from pealm_core.contract.fields import dump, setting, settings_of


@dataclass(frozen=True)
class Sizes:
    n_layer: int = setting(4, "layers", at_least=1)
    rate: float = setting(0.5, above=0, below=1)
    kind: Literal["a", "b"] = "a"
    bias: bool = True
    path: Path | None = None
    sizes: tuple[int, ...] = (1, 2)
    steps: int | None = setting(10, excludes="seconds")
    seconds: float | None = setting(None, excludes="steps")


def build(*layers: Layer) -> Sizes:
    built = Resolved({"t": Sizes}, {}, layers).build("t")
    assert isinstance(built, Sizes)
    return built


def toml(**values: object) -> Layer:
    return Layer("file", {"t": values})


def words(**values: object) -> Layer:
    return Layer("command line", {"t": values}, text=True)


def test_later_layers_win_and_origins_say_which() -> None:
    resolved = Resolved({"t": Sizes}, {}, [toml(**{"n-layer": 5, "rate": 0.1}), words(n_layer="6")])
    assert resolved.build("t") == Sizes(n_layer=6, rate=0.1)
    assert resolved.origins["t"]["n_layer"] == "command line"
    assert resolved.origins["t"]["rate"] == "file"
    assert resolved.origins["t"]["kind"] == "default"


def test_every_type_from_words_equals_itself_from_toml() -> None:
    from_words = build(
        words(n_layer="7", rate="1e-1", kind="b", bias="false", path="x/y", sizes="3,4", seconds="1.5")
    )
    from_toml = build(toml(n_layer=7, rate=0.1, kind="b", bias=False, path="x/y", sizes=[3, 4], seconds=1.5))
    assert from_words == from_toml == Sizes(7, 0.1, "b", False, Path("x/y"), (3, 4), None, 1.5)


def test_dump_round_trips_through_a_file(tmp_path: Path) -> None:
    config = Sizes(n_layer=3, path=Path("p"), sizes=(9,), steps=None, seconds=2.0)
    file = tmp_path / "c.toml"
    file.write_text(tomli_w.dumps({"t": dump(config)}))
    assert build(file_layer(file)) == config


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"n_layer": 0}, "must be at least 1, not 0"),
        ({"n_layer": 1.5}, "must be a whole number, not 1.5"),
        ({"n_layer": True}, "must be a whole number, not True"),
        ({"n_layer": "4"}, "must be a whole number, not '4'"),
        ({"rate": 1}, "must be below 1, not 1"),
        ({"rate": float("nan")}, "must be finite, not nan"),
        ({"rate": float("inf")}, "must be finite, not inf"),
        ({"kind": "c"}, "must be one of a, b, not 'c'"),
        ({"bias": 1}, "must be true or false, not 1"),
        ({"sizes": 3}, "must be a list, not 3"),
        ({"n_layr": 3}, "did you mean 'n-layer'?"),
        ({"steps": 3, "seconds": 4.0}, "exclude each other"),
    ],
)
def test_wrong_values_say_what_and_where(value: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        build(toml(**value))
    assert message in str(error.value)
    assert "file: [t]" in str(error.value)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(UserError) as error:
        build(toml(n_layer=0, rate=2.0, kindd="a"))
    assert len(str(error.value).splitlines()) == 3


def test_one_of_two_exclusive_settings_undoes_the_lower_layers_other() -> None:
    assert build(toml(seconds=3.0)).steps is None
    later = build(toml(seconds=3.0), words(steps="5"))
    assert (later.steps, later.seconds) == (5, None)


def test_toml_errors_name_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[t]\nn-layer = 3\nrte = 0.5\n")
    with pytest.raises(UserError, match=r"bad\.toml, line 3: \[t\] rte: unknown key; did you mean 'rate'"):
        build(file_layer(file))
    file.write_text("[t\n")
    with pytest.raises(UserError, match=r"bad\.toml: bad TOML: .*line 1"):
        file_layer(file)
    with pytest.raises(UserError, match="can't be read: No such file"):
        file_layer(tmp_path / "none.toml")


def test_a_plain_dataclass_field_is_a_setting_too() -> None:
    @dataclass(frozen=True)
    class Plain:
        width: int = 3

    assert settings_of(Plain)["width"].default == 3


def test_nearest() -> None:
    assert nearest("char-transfomer", ["char-bigram", "char-transformer"]) == "char-transformer"
    assert nearest("zebra", ["char-bigram"]) is None
