"""Reads the golden vectors; their layout is described in protocol/vectors/README.md."""

import base64
import json
from pathlib import Path
from typing import Any

import protocol

VECTORS = Path(protocol.__file__).parent / "vectors"


def load(file_name: str, section: str = "cases") -> list[dict[str, Any]]:
    """Return the cases of one vector file."""
    cases: list[dict[str, Any]] = json.loads((VECTORS / file_name).read_text(encoding="utf-8"))[section]
    return cases


def wire_input(case: dict[str, Any]) -> str | bytes | None:
    """Return the frame that a case or a step sends, or None if it sends none."""
    if "text" in case:
        return str(case["text"])
    if "json" in case:
        return json.dumps(case["json"])
    if "base64" in case:
        return base64.b64decode(case["base64"])
    if "generate" in case:
        return "".join(part if isinstance(part, str) else _repeated(part) for part in case["generate"])
    return None


def _repeated(part: dict[str, Any]) -> str:
    text, count = part["repeat"]
    return str(text) * int(count)
