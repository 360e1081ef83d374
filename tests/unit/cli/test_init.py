"""``parley init`` and ``parley new flow``: what they make is sound, and they overwrite nothing."""

import runpy
from pathlib import Path

import pytest

from server.cli.errors import OK, USAGE
from server.cli.group import run
from server.engine.flow.loader import compile_flow
from tests.support.talk import Talk


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_project_is_sound(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "cafe"]) == OK
    assert "parley dev cafe" in capsys.readouterr().out
    assert run(["check", "--strict", "cafe"]) == OK
    assert run(["test", "cafe", "--coverage", "--fail-under", "100"]) == OK


def test_its_commands_can_be_copied_whatever_it_is_called(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "my cafe"]) == OK
    assert "parley dev 'my cafe' " in capsys.readouterr().out


async def test_a_new_project_answers(here: Path) -> None:
    assert run(["init", "cafe"]) == OK
    shop = runpy.run_path(str(here / "cafe" / "shop.py"))
    flow = (here / "cafe" / "flows" / "order.yaml").read_text(encoding="utf-8")
    async with Talk(flow, actions={"shop.price": shop["price"]}) as talk:
        await talk.say("I would like some tea")
        await talk.say("two")
        await talk.say("2")
        await talk.rest()
        assert "2 x tea: that is 5 euros. Thank you!" in await talk.texts()


@pytest.mark.parametrize("name", ["order_pizza", "a", "123", "-", "no", "x-y"])
def test_a_new_flow_compiles_whatever_it_is_called(here: Path, name: str) -> None:
    (here / "flows").mkdir()
    assert run(["new", "flow", name]) == OK
    file = here / "flows" / f"{name}.yaml"
    assert compile_flow(file.read_text(encoding="utf-8"), file.name).warnings == ()


@pytest.mark.parametrize(
    ("taken", "told"),
    [
        ("parley.toml", "holds a project already"),
        ("a.yaml", "holds a project already"),
        ("x.txt", "not empty"),
    ],
)
def test_a_folder_that_is_taken_is_left_alone(
    here: Path, taken: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "cafe").mkdir()
    (here / "cafe" / taken).write_text("mine", encoding="utf-8")
    assert run(["init", "cafe"]) == USAGE
    assert told in capsys.readouterr().err
    assert [path.name for path in (here / "cafe").iterdir()] == [taken]


def test_a_fresh_repository_may_be_filled(here: Path) -> None:
    (here / "cafe" / ".git").mkdir(parents=True)
    (here / "cafe" / "README.md").write_text("mine", encoding="utf-8")
    assert run(["init", "cafe"]) == OK
    assert (here / "cafe" / "README.md").read_text(encoding="utf-8") == "mine"


def test_a_flow_that_is_there_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "flows").mkdir()
    (here / "flows" / "mine.yaml").write_text("mine", encoding="utf-8")
    assert run(["new", "flow", "mine"]) == USAGE
    assert "is there already" in capsys.readouterr().err
    assert (here / "flows" / "mine.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("name", "told"), [("Big", "is no flow id"), ("../x", "is no flow id"), ("fine", "parley init FOLDER")]
)
def test_what_cannot_be_made_is_said(name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new", "flow", name]) == USAGE
    assert told in capsys.readouterr().err
