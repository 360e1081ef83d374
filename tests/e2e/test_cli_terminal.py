"""``parley chat`` at a terminal: what a person sees and may press."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Dev, Terminal, parley
from tests.support.ports import free_port

FLOW = """\
flow: order
slots:
  size: {type: choice, options: [small, large]}
steps:
  - id: what
    collect: [size]
    ask: {size: "Which size?"}
  - {id: thanks, say: "One ${slots.size} coffee."}
  - {id: done, end: completed}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "order.yaml").write_text(FLOW)
    return tmp_path


@pytest.fixture
def dev(project: Path) -> Iterator[Dev]:
    with Dev(project) as running:
        yield running


def test_a_person_talks_presses_a_button_and_leaves(project: Path, dev: Dev) -> None:
    with Terminal(["chat", "--conversation", "c1"], project) as chat:
        chat.shows("Connected to http")
        chat.shows("> ")
        chat.type("coffee please\n")
        chat.shows(r"2\) large")
        chat.type("2\n")
        chat.shows("One large coffee")
        chat.type("\x04")
        assert chat.wait() == 0
        assert "chat --conversation c1" in chat.screen.text


def test_ctrl_c_ends_a_chat_at_once(project: Path, dev: Dev) -> None:
    with Terminal(["chat"], project) as chat:
        chat.shows("> ")
        chat.type("\x03")
        assert chat.wait() == 130
        assert "Traceback" not in chat.screen.text


def test_ctrl_c_ends_a_chat_that_finds_no_server(project: Path) -> None:
    with Terminal(
        ["chat", "--wait", "60"], project, {"PARLEY_URL": "http://127.0.0.1:9", "PARLEY_TOKEN": "x"}
    ) as chat:
        chat.shows("(?i)trying")
        chat.type("\x03")
        assert chat.wait() == 130
        assert "Traceback" not in chat.screen.text


def test_a_conversation_that_is_taken_up_again_shows_what_was_said(project: Path, dev: Dev) -> None:
    parley("chat", "--conversation", "c1", cwd=project, says="coffee\n")
    with Terminal(["chat", "--conversation", "c1"], project) as chat:
        chat.shows("you.*: coffee")
        chat.shows("Which size")
        chat.type("1\n")
        chat.shows("One small coffee")


def test_commands_of_the_terminal(project: Path, dev: Dev) -> None:
    with Terminal(["chat", "--conversation", "c1"], project) as chat:
        chat.shows("> ")
        chat.type("/help\n")
        chat.shows("/history")
        chat.type("/cancel\n")
        chat.shows("! ")
        chat.type("coffee\n")
        chat.shows("Which size")
        chat.type("/state\n")
        chat.shows("waiting_input at what of order")
        seen = len(chat.screen.text)
        chat.type("/history\n")
        chat.shows("you.*: coffee", seen)
        chat.type("/reset\n")
        chat.shows("begins afresh")
        chat.type("/new\n")
        chat.shows("A new conversation")
        chat.type("large coffee\n")
        chat.shows("One large coffee")
        chat.type("/quit\n")
        assert chat.wait() == 0
        assert "--conversation c1" not in chat.screen.text


def test_a_lost_connection_is_told_and_what_was_typed_meanwhile_is_sent(project: Path) -> None:
    port = free_port()
    with Dev(project, port=port) as first, Terminal(["chat"], project) as chat:
        chat.type("coffee\n")
        chat.shows("Which size")
        first.kill()
        chat.shows("connection is lost")
        chat.type("large\n")
        with Dev(project, port=port):
            chat.shows("Connected again")
            chat.shows("One large coffee")
        assert chat.screen.text.count("One large coffee") == 1


def test_what_others_say_in_the_conversation_is_shown(project: Path, dev: Dev) -> None:
    with Terminal(["chat", "--conversation", "c1"], project) as chat:
        chat.shows("> ")
        assert parley("chat", "--conversation", "c1", cwd=project, says="coffee\n").returncode == 0
        chat.shows("you.*: coffee")
        chat.shows("Which size")


def test_dev_at_a_terminal_stops_on_ctrl_c(project: Path) -> None:
    with Terminal(["dev", "--port", "0"], project) as running:
        running.shows("Ctrl-C stops")
        running.type("\x03")
        assert running.wait() == 0
        assert "Traceback" not in running.screen.text
