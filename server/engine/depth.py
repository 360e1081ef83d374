"""How deeply a value may be nested: what it becomes a part of has to be JSON too."""

from typing import Any, Final

MAX_DEPTH: Final = 64


def is_too_deep(value: Any) -> bool:
    """Tell whether lists and mappings are nested more than ``MAX_DEPTH`` deep in ``value``."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True
