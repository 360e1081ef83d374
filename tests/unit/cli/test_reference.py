"""The reference pages of settings and commands say what is there."""

from pathlib import Path

import pytest

from server.cli import reference


@pytest.mark.parametrize("path", reference.pages(), ids=lambda path: path.name)
def test_a_page_is_current(path: Path) -> None:
    """If not: ``python -m server.cli.reference`` writes it."""
    assert path.read_text(encoding="utf-8") == reference.pages()[path]
