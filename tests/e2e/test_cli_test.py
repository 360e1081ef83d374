"""``parley test --watch`` as a process."""

import signal
from pathlib import Path

import pytest

from server.cli.errors import INTERRUPTED
from tests.support.commands import Running

FLOW = 'flow: hello\nsteps: [{id: hello, say: "Hello."}]\n'
TEST = "tests: [{name: a greeting, conversation: [{user: hi, reply: Hello.}]}]\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in (("flows/hello.yaml", FLOW), ("tests/hello.yaml", TEST)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


def test_it_runs_again_at_each_change_of_flows_and_tests(project: Path) -> None:
    with Running(["test", "--watch"], project) as watching:
        watching.err.wait_for("1 passed")
        watching.err.wait_for("Watching")
        (project / "flows" / "hello.yaml").write_text(FLOW.replace("Hello.", "Good day."))
        watching.err.wait_for("1 failed")
        watching.out.wait_for("Good day")
        (project / "tests" / "hello.yaml").write_text(TEST.replace("reply: Hello.", "relpy: Hello."))
        watching.out.wait_for(r"\[unknown-field\]")
        (project / "tests" / "hello.yaml").write_text(TEST.replace("Hello.", "Good day."))
        watching.err.wait_for("1 passed", after=watching.err.wait_for("cannot be run").end())
        assert watching.signal(signal.SIGINT) == INTERRUPTED
        assert "KeyboardInterrupt" not in watching.err.text
