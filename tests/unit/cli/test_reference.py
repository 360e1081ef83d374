"""The reference pages of settings and commands say what is there."""

from pathlib import Path

import pytest
import rich_click as click

from server.cli import reference
from server.cli.group import command


@pytest.mark.parametrize("path", reference.pages(), ids=lambda path: path.name)
def test_a_page_is_current(path: Path) -> None:
    """If not: ``python -m server.cli.reference`` writes it."""
    assert path.read_text(encoding="utf-8") == reference.pages()[path]


@pytest.mark.parametrize("name", ["export", "import", "keys create", "origins list"])
def test_a_command_with_one_flag_of_a_setting_has_not_all_of_them(name: str) -> None:
    first, _, part = name.partition(" ")
    found = command(first)
    found = found.commands[part] if isinstance(found, click.Group) else found
    text = reference.cli_page().split(f"# parley {name}\n", 1)[1].split("\n#", 1)[0]
    named = [option.opts[0] for option in found.params if isinstance(option, click.Option)]
    assert all(f"| `{option}" in text for option in named)
    assert "for every setting" not in text
