"""``parley chat`` where a flow waits for people: questions, decisions, deadlines; typed and piped."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Dev, Terminal, parley

FLOW = """\
flow: order
slots:
  day: {type: date}
variables: {when: null}
steps:
  - id: what
    collect: [day]
    ask: {day: "Which day?"}
  - id: more
    clarify:
      questions:
        - {id: part, text: "Morning or afternoon?", options: [morning, afternoon]}
        - {id: note, text: "Anything else?", required: false}
      deadline: 15m
      on_timeout: none
    save: variables.when
  - id: gate
    accept:
      title: "A table on ${slots.day}, ${variables.when.part}?"
      editable: [slots.day]
      deadline: 4h
      on_timeout: {decide: reject}
    accepted: booked
    rejected: none
  - {id: booked, say: "Booked for ${slots.day}, ${variables.when.part}."}
  - {id: done, end: completed}
  - {id: none, say: "Nothing was booked.", goto: done}
"""
DESK = """\
flow: pay
slots:
  amount: {type: number}
steps:
  - id: what
    collect: [amount]
    ask: {amount: "How much?"}
  - id: gate
    accept: {title: "Pay ${slots.amount}?", by: {scope: "acceptance:decide"}, editable: [slots.amount]}
    accepted: paid
    rejected: none
  - {id: paid, say: "Paid ${slots.amount}."}
  - {id: done, end: completed}
  - {id: none, say: "Nothing was paid.", goto: done}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flows").mkdir()
    return tmp_path


@pytest.fixture
def dev(project: Path) -> Iterator[Dev]:
    (project / "flows" / "order.yaml").write_text(FLOW)
    with Dev(project) as running:
        yield running


@pytest.fixture
def desk(project: Path) -> Iterator[Dev]:
    (project / "flows" / "pay.yaml").write_text(DESK)
    with Dev(project) as running:
        yield running


def operator(project: Path, name: str) -> dict[str, str]:
    made = parley("token", str(project), "--user", name, "--role", "operator", cwd=project)
    assert made.returncode == 0, made.stderr
    return {"PARLEY_TOKEN": made.stdout.strip()}


def test_a_pipe_answers_the_questions_and_decides(project: Path, dev: Dev) -> None:
    said = parley("chat", cwd=project, says="2031-05-20\n1\nby the window\n/edit day=2031-05-21\n/accept\n")
    assert (said.returncode, said.stdout.splitlines()) == (0, [
        "Morning or afternoon?",
        "  1) morning",
        "  2) afternoon",
        "Anything else?",
        "A table on 2031-05-20, morning?",
        "Booked for 2031-05-21, morning.",
    ])  # fmt: skip
    assert "Please answer within 15 minutes." in said.stderr
    assert "/accept or /reject within 4 hours" in said.stderr


def test_a_pipe_goes_on_where_another_stopped(project: Path, dev: Dev) -> None:
    parley("chat", "--conversation", "c1", cwd=project, says="2031-05-20\n")
    said = parley("chat", "--conversation", "c1", cwd=project, says="afternoon\n/skip\n/reject too late\n")
    assert said.returncode == 0
    assert said.stdout.splitlines()[-1] == "Nothing was booked."
    again = parley("chat", "--conversation", "c1", cwd=project, says="/pending\n/accept\n")
    assert again.returncode == 1
    assert "Nothing waits for an answer" in again.stderr
    assert "There is no such request here." in again.stderr


def test_an_answer_that_does_not_fit_is_asked_for_again(project: Path, dev: Dev) -> None:
    said = parley("chat", cwd=project, says="2031-05-20\nmidnight\n/skip\nmorning\n/pending\n")
    assert said.returncode == 1
    assert said.stdout.count("Morning or afternoon?") == 2
    assert said.stdout.splitlines()[-1] == "A table on 2031-05-20, morning?"
    assert "! " in said.stderr


def test_a_person_answers_question_after_question_and_decides(project: Path, dev: Dev) -> None:
    with Terminal(["chat"], project) as chat:
        chat.shows("> ")
        chat.type("2031-05-20\n")
        chat.shows("within 15 minutes")
        chat.shows(r"2\) afternoon")
        chat.type("2\n")
        chat.shows("Anything else")
        chat.type("/skip\n")
        chat.shows("A table on 2031-05-20, afternoon")
        chat.shows("within 4 hours")
        seen = len(chat.screen.text)
        chat.type("/pending\n")
        chat.shows('day .now "2031-05-20"', seen)
        chat.type("/accept with pleasure\n")
        chat.shows("Booked for 2031-05-20, afternoon")
        chat.type("\x04")
        assert chat.wait() == 0
        assert chat.screen.text.count("Morning or afternoon?") == 1


def test_ctrl_c_ends_a_chat_in_the_middle_of_a_question(project: Path, dev: Dev) -> None:
    with Terminal(["chat"], project) as chat:
        chat.type("2031-05-20\n")
        chat.shows("Morning or afternoon")
        chat.type("\x03")
        assert chat.wait() == 130
        assert "Traceback" not in chat.screen.text


def test_an_operator_decides_from_another_terminal(project: Path, desk: Dev) -> None:
    olga = operator(project, "olga")
    with (
        Terminal(["chat", "--conversation", "c1"], project) as chat,
        Terminal(["chat", "--conversation", "c1"], project, operator(project, "oleg")) as watcher,
    ):
        chat.shows("> ")
        watcher.shows("> ")
        chat.type("I have to pay\n")
        chat.shows("How much")
        chat.type("120\n")
        chat.shows("Somebody else has to decide now")
        watcher.shows("Pay 120")
        says = "/edit amount=100\n/accept as agreed\n"
        said = parley("chat", "--conversation", "c1", cwd=project, env=olga, says=says)
        assert said.returncode == 0
        assert said.stdout.splitlines() == ["Pay 120?", "Paid 100."]
        chat.shows("Paid 100")
        watcher.shows("Accepted by olga: as agreed")
