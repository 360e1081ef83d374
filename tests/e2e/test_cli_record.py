"""``parley chat --record``: a sitting becomes a test that passes."""

import shutil
from pathlib import Path

import pytest

from tests.support.commands import Dev, parley

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID = "I need a checkup on 2031-05-20\nnot an address\nada@lovelace.org\nafternoon\n/cancel\n/new\nhello\n"


@pytest.fixture
def booking(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("*.db*", ".parley", "__pycache__")
    return Path(shutil.copytree(EXAMPLES / "booking", tmp_path / "booking", ignore=ignored))


def test_a_recorded_chat_passes_as_a_test_and_keeps_what_is_personal_to_itself(booking: Path) -> None:
    with Dev(booking):
        said = parley("chat", "--record", "tests/recorded.yaml", cwd=booking, says=SAID)
        assert said.returncode == 0, said.stderr
    text = (booking / "tests" / "recorded.yaml").read_text()
    assert "masked@example.com" in text
    assert "lovelace" not in text
    assert "not an address" not in text
    tested = parley("test", "tests/recorded.yaml", cwd=booking)
    assert (tested.returncode, tested.stderr.strip()) == (0, "2 passed"), tested.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--record", "tests/book.yaml"], "tests/book.yaml is there"),
        (["--record", "new.yaml", "--conversation", "c1"], "leave --conversation away"),
        (["--record", "new.yaml", "tests"], "--record needs the flows"),
    ],
)
def test_what_cannot_be_recorded_is_said_before_anything_is(
    arguments: list[str], sentence: str, booking: Path
) -> None:
    said = parley("chat", *arguments, cwd=booking, says="")
    assert said.returncode == 2
    assert sentence in said.stderr
    assert not (booking / "new.yaml").exists()
