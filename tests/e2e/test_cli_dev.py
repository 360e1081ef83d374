"""``parley dev`` and ``parley chat`` beside it, as processes."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.support.commands import Dev, Running, environment, parley
from tests.support.ports import free_port

ORDER = """\
flow: order
triggers:
  intents: [{name: order, keywords: [coffee], payloads: [order]}]
slots:
  size: {type: choice, options: [small, large]}
steps:
  - id: what
    collect: [size]
    ask: {size: "Which size?"}
  - {id: thanks, say: "One ${slots.size} coffee."}
  - {id: done, end: completed}
"""

GREET = """\
flow: greet
default: true
steps:
  - id: hello
    say:
      text: "What shall it be?"
      buttons: [{title: A coffee, payload: order}, {title: Nothing, payload: none}]
  - {id: done, end: completed}
"""

SLOW = """\
flow: slow
triggers:
  intents: [{name: slow, keywords: [slow]}]
variables: {n: null}
steps:
  - {id: count, action: work.count, effect: idempotent, timeout: 60s, save: variables.n}
  - {id: told, say: "Counted to ${variables.n}."}
  - {id: done, end: completed}
"""

WORK = """\
import asyncio, os, pathlib

async def count(context):
    here = pathlib.Path(__file__).parent
    (here / "begun").touch()
    while not (here / "go").exists():
        await asyncio.sleep(0.02)
    return 7
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "flows").mkdir(parents=True)
    (folder / "flows" / "order.yaml").write_text(ORDER)
    (folder / "flows" / "greet.yaml").write_text(GREET)
    (folder / "parley.toml").write_text("sweep_seconds = 0.1\n")
    return folder


def test_a_stranger_talks_within_two_commands(project: Path) -> None:
    with Dev(project) as dev:
        said = parley("chat", cwd=project, says="hello\n1\nlarge\n")
        assert said.stderr == ""
        assert said.stdout.splitlines() == [
            "What shall it be?",
            "  1) A coffee",
            "  2) Nothing",
            "Which size?",
            "  1) small",
            "  2) large",
            "One large coffee.",
        ]
        assert said.returncode == 0
        with urllib.request.urlopen(f"{dev.url}/readyz") as answer:
            assert answer.status == 200


def test_the_project_may_be_named_from_elsewhere(project: Path) -> None:
    with Dev(project.parent, "shop"):
        said = parley("chat", "shop", cwd=project.parent, says="coffee\nsmall\n")
        assert said.stdout.splitlines()[-1] == "One small coffee."
        assert (project / ".parley" / "parley.db").exists()
        assert not (project.parent / ".parley").exists()


def test_a_bare_folder_of_flows_is_enough(project: Path) -> None:
    with Dev(project.parent, "shop/flows"):
        said = parley("chat", cwd=project.parent, says="coffee\nsmall\n")
        assert said.stdout.splitlines()[-1] == "One small coffee."


def test_events_are_there_for_machines(project: Path) -> None:
    with Dev(project):
        said = parley("chat", "--json", "--conversation", "c1", cwd=project, says="coffee\n")
        events = [json.loads(line) for line in said.stdout.splitlines()]
        assert events[0]["type"] == "snapshot" or events[0]["offset"] == 1
        assert events[-1]["type"] == "turn.completed"
        assert events[-1]["data"]["response"]["messages"][0]["text"] == "Which size?"


def test_the_printed_token_is_taken_and_outlives_kill_9(project: Path) -> None:
    port = free_port()
    with Dev(project, port=port) as dev:
        token = dev.out.wait_for(r"^Token:\s+(\S+)$")[1]
        assert parley("chat", cwd=project, env={"PARLEY_TOKEN": token}, says="coffee\n").returncode == 0
        dev.kill()
    with Dev(project, port=port):
        said = parley("chat", cwd=project, env={"PARLEY_TOKEN": token}, says="coffee\n")
        assert said.returncode == 0


def test_the_printed_program_runs(project: Path) -> None:
    with Dev(project) as dev:
        dev.out.wait_for("Ctrl-C stops")
        token = dev.out.wait_for(r"^Token:\s+(\S+)$")[1]
        printed = dev.out.text.partition("From Python:\n")[2].partition("Flows are read")[0]
        program = textwrap.dedent(printed).replace('"..."', repr(token))
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "What shall it be?\n"), done.stderr


def test_the_secret_is_private(project: Path) -> None:
    with Dev(project):
        assert stat.S_IMODE((project / ".parley" / "secret").stat().st_mode) == 0o600


def test_after_kill_9_a_conversation_goes_on_where_it_was(project: Path) -> None:
    port = free_port()
    with Dev(project, port=port) as dev:
        asked = parley("chat", "--conversation", "c1", cwd=project, says="coffee\n")
        assert asked.stdout.splitlines()[0] == "Which size?"
        dev.kill()
    with Dev(project, port=port):
        said = parley("chat", "--conversation", "c1", cwd=project, says="large\n")
        assert said.stdout == "One large coffee.\n"


def test_a_chat_that_is_open_outlives_kill_9_of_its_server(project: Path) -> None:
    port = free_port()
    with Dev(project, port=port) as dev, Running(["chat", "--wait", "60"], project) as chat:
        chat.say("coffee")
        chat.out.wait_for("Which size")
        dev.kill()
        with Dev(project, port=port):
            chat.say("large")
            chat.out.wait_for("One large coffee")
            assert chat.hang_up() == 0
        assert chat.out.text.count("One large coffee.") == 1


def test_a_turn_that_was_cut_off_in_the_middle_is_finished_by_the_next_server(project: Path) -> None:
    (project / "flows" / "slow.yaml").write_text(SLOW)
    (project / "work.py").write_text(WORK)
    (project / "parley.toml").write_text('actions = ["work"]\nsweep_seconds = 0.1\n')
    port = free_port()
    with Dev(project, port=port) as dev, Running(["chat", "--wait", "60"], project) as chat:
        chat.say("slow")
        while not (project / "begun").exists():
            os.sched_yield()
        dev.kill()
        (project / "go").touch()
        with Dev(project, port=port):
            chat.out.wait_for("Counted to 7")
            assert chat.hang_up() == 0


def test_a_changed_flow_is_reloaded_and_running_conversations_keep_theirs(project: Path) -> None:
    with Dev(project) as dev:
        parley("chat", "--conversation", "old", cwd=project, says="coffee\n")
        (project / "flows" / "order.yaml").write_text(ORDER.replace("One ", "Just one "))
        dev.err.wait_for("Reloaded 2 flows")
        old = parley("chat", "--conversation", "old", cwd=project, says="large\n")
        assert old.stdout == "One large coffee.\n"
        new = parley("chat", cwd=project, says="coffee\nlarge\n")
        assert new.stdout.splitlines()[-1] == "Just one large coffee."


def test_the_lock_of_an_editor_beside_a_flow_does_not_end_the_reloading(project: Path) -> None:
    """Emacs makes a link to nowhere there while a file has unsaved changes."""
    locks = [project / "flows" / f".#{name}.yaml" for name in ("greet", "order")]
    locks[0].symlink_to("ada@example.1234:1700000000")
    with Dev(project) as dev:
        locks[1].symlink_to("ada@example.1234:1700000000")
        (project / "flows" / "order.yaml").write_text(ORDER.replace("One ", "Just one "))
        dev.err.wait_for("Reloaded 2 flows")
        said = parley("chat", cwd=project, says="coffee\nlarge\n")
        assert said.stdout.splitlines()[-1] == "Just one large coffee."


def test_a_broken_flow_is_reported_and_the_old_one_goes_on(project: Path) -> None:
    with Dev(project) as dev:
        path = project / "flows" / "order.yaml"
        path.write_text(ORDER.replace("collect:", "colect:"))
        place = dev.err.wait_for(r"order\.yaml:(\d+):(\d+): error")
        assert place[1] == "8"
        dev.err.wait_for("stays as it was")
        said = parley("chat", cwd=project, says="coffee\nlarge\n")
        assert said.stdout.splitlines()[-1] == "One large coffee."
        seen = len(dev.err.text)
        path.write_text(ORDER.replace("One ", "Again one "))
        dev.err.wait_for("Reloaded", seen)
        said = parley("chat", cwd=project, says="coffee\nlarge\n")
        assert said.stdout.splitlines()[-1] == "Again one large coffee."


def test_dev_starts_with_a_broken_flow_and_says_so(project: Path) -> None:
    (project / "flows" / "bad.yaml").write_text("flow: bad\nsteps: 7\n")
    with Dev(project) as dev:
        dev.err.wait_for(r"bad\.yaml:2:\d+: error")
        assert parley("chat", cwd=project, says="coffee\n").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_stops_in_good_order(project: Path, number: signal.Signals) -> None:
    with Dev(project) as dev:
        assert (project / ".parley" / "dev.json").exists()
        assert dev.signal(number) == 0
        assert dev.err.text == ""
    assert not (project / ".parley" / "dev.json").exists()


def test_a_second_server_on_the_same_store_is_refused(project: Path) -> None:
    with Dev(project):
        second = parley("dev", "--port", "0", cwd=project)
    assert second.returncode == 3
    assert second.stdout == ""
    assert "locked by another Parley server" in second.stderr
    assert second.stderr.count("\n") == 1


def test_a_taken_port_is_said_with_what_to_do(project: Path) -> None:
    with Dev(project) as dev:
        port = dev.url.rpartition(":")[2]
        second = parley("dev", "--port", port, "--store", "memory:", cwd=project)
    assert second.returncode == 3
    assert second.stderr.startswith(f"parley: port {port} is taken")
    assert "--port" in second.stderr


def test_dev_does_not_listen_to_other_machines(project: Path) -> None:
    refused = parley("dev", "--host", "0.0.0.0", cwd=project)
    assert refused.returncode == 2
    assert "--public" in refused.stderr
    refused = parley("dev", "--public", cwd=project)
    assert refused.returncode == 2
    assert "PARLEY_JWT_SECRET" in refused.stderr


def test_without_flows_there_is_nothing_to_serve_and_nothing_is_left_behind(tmp_path: Path) -> None:
    refused = parley("dev", cwd=tmp_path)
    assert refused.returncode == 3
    assert "flows folder" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("modules", "source"),
    [("nowhere", None), ("work", "def broken(:\n"), ("work", "raise RuntimeError('boom')\n")],
)
def test_actions_that_cannot_be_loaded_are_a_sentence(
    project: Path, modules: str, source: str | None
) -> None:
    if source is not None:
        (project / "work.py").write_text(source)
    refused = parley("dev", "--port", "0", "--actions", modules, cwd=project)
    assert refused.returncode == 3
    assert modules in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_project_that_cannot_be_written_to_is_a_sentence(project: Path) -> None:
    project.chmod(0o500)
    try:
        refused = parley("dev", "--port", "0", cwd=project)
    finally:
        project.chmod(0o700)
    assert refused.returncode == 3
    assert "permission" in refused.stderr


def test_no_token_and_no_secret_shows_in_the_logs(project: Path) -> None:
    with Dev(project, "--log-level", "debug") as dev:
        token = parley("token", "--user", "canary", cwd=project).stdout.strip()
        forged = token[:-8] + "AAAAAAAA"
        assert (
            parley("chat", cwd=project, env={"PARLEY_TOKEN": token}, says="coffee\nlarge\n").returncode == 0
        )
        assert parley("chat", cwd=project, env={"PARLEY_TOKEN": forged}, says="coffee\n").returncode == 4
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(f"{dev.url}/nowhere?token={token}")
        refused.value.close()
        secret = (project / ".parley" / "secret").read_text()
        assert dev.signal(signal.SIGTERM) == 0
        logged = dev.err.text
        kept = (project / ".parley" / "parley.db").read_bytes()
    for canary in (token, forged, token.rpartition(".")[2], secret):
        assert canary not in logged
        assert canary.encode() not in kept
