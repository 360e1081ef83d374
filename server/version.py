"""Which Parley this is."""

from functools import cache
from pathlib import Path
from typing import Final

DISTRIBUTION: Final = "parley-server"


@cache
def version() -> str:
    """Return the installed version; in a source tree that is not installed, the one it would have."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(DISTRIBUTION)
    except PackageNotFoundError:
        return _of_source_tree() or "unknown"


def _of_source_tree() -> str | None:
    import tomllib

    try:
        table = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
        return str(table["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return None
