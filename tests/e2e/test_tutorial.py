"""What the tutorial says beside its commands, which ``test_pages`` follows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import SECRET

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


@pytest.fixture
def cafe(tmp_path: Path) -> Path:
    """The tutorial's flow as it is after step 2, alone in a folder."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "book.yaml").write_text(blocks("docs/tutorial/first-flow.md", "yaml")[0])
    return tmp_path


def test_the_readmes_flow_is_the_tutorials_first() -> None:
    assert blocks("README.md", "yaml")[0] == blocks("docs/tutorial/first-flow.md", "yaml")[0]


def test_a_misspelt_step_is_told_by_line_column_and_what_was_meant(cafe: Path) -> None:
    flow = cafe / "flows" / "book.yaml"
    flow.write_text(flow.read_text().replace("collect:", "colect:", 1))
    done = parley("check", str(cafe))
    assert done.returncode == 1
    assert re.search(r"book\.yaml:\d+:\d+: error .*colect.*collect", done.stdout)
