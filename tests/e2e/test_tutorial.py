"""The tutorial and the README, followed to the letter: their snippets are the files, their client is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import SECRET, server_process

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def parley(*arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT), "PARLEY_JWT_SECRET": SECRET},
        capture_output=True,
        text=True,
        check=False,
    )


def run_client(program: str, url: str, folder: Path) -> str:
    """Run a page's client as it stands, but for the port."""
    made = parley("token", str(folder), "--user", "ada", "--tenant", "default")
    assert made.returncode == 0, made.stderr
    paths = os.pathsep.join((str(ROOT), str(ROOT / "clients" / "python" / "src")))
    assert "http://127.0.0.1:8765" in program
    done = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:8765", url)],
        env={**os.environ, "PYTHONPATH": paths, "PARLEY_TOKEN": made.stdout.strip()},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def coffee(tmp_path: Path) -> Path:
    """The tutorial's folder as it is at the end of step 3."""
    folder = tmp_path / "coffee"
    (folder / "flows").mkdir(parents=True)
    (folder / "flows" / "order.yaml").write_text(blocks("docs/tutorial/first-flow.md", "yaml")[-1])
    (folder / "shop.py").write_text(blocks("docs/tutorial/first-flow.md", "python")[0])
    (folder / "parley.toml").write_text(blocks("docs/tutorial/first-flow.md", "toml")[0])
    return folder


def test_the_readmes_flow_is_the_tutorials_first() -> None:
    assert blocks("README.md", "yaml")[0] == blocks("docs/tutorial/first-flow.md", "yaml")[0]


def test_what_the_tutorial_builds_passes_the_check(coffee: Path) -> None:
    done = parley("check", str(coffee))
    assert (done.returncode, done.stdout) == (0, "")


def test_a_misspelt_step_is_told_by_line_column_and_what_was_meant(coffee: Path) -> None:
    flow = coffee / "flows" / "order.yaml"
    flow.write_text(flow.read_text().replace("collect:", "colect:", 1))
    done = parley("check", str(coffee))
    assert done.returncode == 1
    assert re.search(r"order\.yaml:\d+:\d+: error .*colect.*collect", done.stdout)


def test_the_tutorials_client_orders_a_coffee(coffee: Path) -> None:
    with server_process(coffee, command="dev") as server:
        told = run_client(blocks("docs/tutorial/first-flow.md", "python")[1], server.url, coffee)
    assert "That is 3.2 euros. Shall I order?" in told
    assert "Ordered. Your number is" in told


def test_the_readmes_client_talks_to_the_readmes_flow(tmp_path: Path) -> None:
    with server_process(tmp_path, command="dev", flows={"order": blocks("README.md", "yaml")[0]}) as server:
        told = run_client(blocks("README.md", "python")[0], server.url, tmp_path)
    assert "Small or large?" in told
    assert "TurnCompleted" in told
