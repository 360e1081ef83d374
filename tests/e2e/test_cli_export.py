"""``parley export`` and ``import`` as processes, and the how-to about them, followed to the letter."""

import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from server.cli.errors import CANNOT_START, FAILED, OK, USAGE
from tests.support.commands import Dev, parley

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "back-up-and-move.md").read_text()
TYPED = re.compile(r"^parley (?:export|import) .*$", re.MULTILINE)
COMMANDS = [shlex.split(line)[1:] for line in TYPED.findall(PAGE)]

ORDER = """\
flow: order
default: true
slots:
  size: {type: choice, options: [small, large]}
  email: {type: email, pii: true}
steps:
  - id: what
    collect: [size, email]
    ask: {size: "Which size?", email: "Your email?"}
  - {id: thanks, say: "One ${slots.size} coffee."}
  - {id: done, end: completed}
"""
CHANGED = "flow: order\ndefault: true\nsteps: [{id: tea, say: Only tea.}]\n"


def say(project: Path, text: str, conversation: str = "mine") -> list[str]:
    said = parley("chat", "--conversation", conversation, cwd=project, says=text)
    assert said.returncode == OK, said.stderr
    return said.stdout.splitlines()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Two projects of the same flow, side by side; in ``shop`` somebody is in the middle of an order."""
    for name in ("shop", "branch"):
        (tmp_path / name / "flows").mkdir(parents=True)
        (tmp_path / name / "flows" / "order.yaml").write_text(ORDER)
    shop = tmp_path / "shop"
    with Dev(shop) as dev:
        say(shop, "coffee\nlarge\n")
        say(shop, "coffee\nsmall\nann@x.example\n", "ended")
        held = parley("export", "--project", "shop", "--out", "no.jsonl", cwd=tmp_path)
        assert held.returncode == CANNOT_START
        assert f"process {dev.process.pid}" in held.stderr
        assert "stop it" in held.stderr
    assert not (tmp_path / "no.jsonl").exists()
    return shop


def test_the_page_moves_conversations_that_go_on(shop: Path) -> None:
    folder = shop.parent
    write, read, again, mask = COMMANDS
    assert parley(*write, cwd=folder).returncode == OK
    assert stat.S_IMODE((folder / "shop.jsonl").stat().st_mode) == 0o600
    done = parley(*read, cwd=folder)
    assert (done.returncode, done.stdout) == (OK, "")
    assert "2 conversations; new versions of flows: 1" in done.stderr
    twice = parley(*read, cwd=folder)
    assert twice.returncode == FAILED
    assert "ended, mine already" in twice.stderr
    skipped = parley(*again, cwd=folder)
    assert (skipped.returncode, "there already: 2" in skipped.stderr) == (OK, True)
    (folder / "branch" / "flows" / "order.yaml").write_text(CHANGED)
    with Dev(folder / "branch"):
        assert say(folder / "branch", "ann@x.example\n") == ["One large coffee."], "by its own version"
        assert say(folder / "branch", "hello\n", "new") == ["Only tea."]
    away = parley("import", "--project", "branch", "away.jsonl", cwd=folder)
    assert (away.returncode, "away.jsonl cannot be read: No such file" in away.stderr) == (USAGE, True)
    masked = parley(*mask, cwd=folder)
    assert masked.returncode == OK, masked.stderr
    assert "ann@x.example" in (folder / "shop.jsonl").read_text()
    assert "ann@x.example" not in (folder / "for-analysis.jsonl").read_text()


def test_what_cannot_be_done_is_said_and_changes_nothing(shop: Path) -> None:
    folder = shop.parent
    missing = parley("export", "nobody", "--project", "shop", "--out", "x.jsonl", cwd=folder)
    assert (missing.returncode, list(folder.glob("*x.jsonl*"))) == (FAILED, [])
    assert "no conversation nobody" in missing.stderr
    nothing = parley("export", cwd=folder)
    assert (nothing.returncode, "there is no store" in nothing.stderr) == (USAGE, True)
    whole = parley("export", "--project", "shop", cwd=folder).stdout
    (folder / "torn.jsonl").write_text(whole[:-20])
    torn = parley("import", "--project", "branch", "torn.jsonl", cwd=folder)
    assert torn.returncode == FAILED
    assert f"line {len(whole.splitlines())}: the file is torn off" in torn.stderr
    assert not (folder / "branch" / ".parley").exists()
    shutil.copy(shop / ".parley" / "parley.db", shop / "parley.db")
    two = parley("export", "--project", "shop", cwd=folder)
    assert (two.returncode, "there are two stores" in two.stderr) == (USAGE, True)
    named = parley("export", "mine", "--store", "sqlite:shop/parley.db", cwd=folder)
    assert (named.returncode, named.stdout.count('{"conversation"')) == (OK, 1), named.stderr


def test_a_store_on_the_command_line_is_seen_from_the_current_folder(shop: Path) -> None:
    named = ("--project", "shop", "--store", "sqlite:shop/.parley/parley.db", "--out", "kept.jsonl")
    assert parley("export", *named, cwd=shop.parent).returncode == OK


def test_a_pipe_or_a_device_is_written_to_and_stays_one(shop: Path) -> None:
    """As root, a file in the place of /dev/null would be the end of this machine's peace."""
    pipe = shop.parent / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        done = parley("export", "--project", "shop", "--out", "pipe", cwd=shop.parent)
        if not pipe.is_fifo():
            reader.kill()
        received = reader.communicate()[0]
    assert (done.returncode, pipe.is_fifo()) == (OK, True)
    assert received.startswith(b'{"parley_export"')


@pytest.mark.needs("mongo")
def test_conversations_move_to_mongodb_and_back(shop: Path, mongo_url: str) -> None:
    """One outgrows its machine; and what was exported from there is what went in."""
    folder = shop.parent
    mongo = ("--project", "branch", "--store", mongo_url)
    made = parley("migrate", *mongo, cwd=folder)
    assert (made.returncode, "made index conversations.key" in made.stdout) == (OK, True), made.stderr
    assert parley("migrate", *mongo, cwd=folder).stdout == "nothing was missing\n"
    assert parley("export", "--project", "shop", "--out", "there.jsonl", cwd=folder).returncode == OK
    went = parley("import", *mongo, "there.jsonl", cwd=folder)
    assert (went.returncode, "2 conversations" in went.stderr) == (OK, True), went.stderr
    twice = parley("import", *mongo, "there.jsonl", cwd=folder)
    assert (twice.returncode, "ended, mine already" in twice.stderr) == (FAILED, True)
    back_again = parley("export", *mongo, "--tenant", "default", "--out", "back.jsonl", cwd=folder)
    assert back_again.returncode == OK, back_again.stderr
    there, back = ((folder / name).read_text().splitlines() for name in ("there.jsonl", "back.jsonl"))
    assert len(there) == len(back)
    home = parley("import", "--project", "branch", "back.jsonl", cwd=folder)
    assert home.returncode == OK, home.stderr
    with Dev(folder / "branch"):
        assert say(folder / "branch", "ann@x.example\n") == ["One large coffee."]
