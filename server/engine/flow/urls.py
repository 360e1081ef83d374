"""Addresses of web pages in messages: absolute, http or https, normalised as browsers do (WHATWG).

The parser is pydantic's. An address with a user or password in it is refused: it is a secret, or a trap.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from pydantic_core import Url, ValidationError

MAX_CHARS: Final = 2_048
_WRITTEN: Final = re.compile(r"https?://[^\s<>\"]{1,2048}", re.IGNORECASE)
_BARE: Final = re.compile(
    r"(?<![\w@./:+-])(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,63}"
    r"(?::\d{1,5})?(?:[/?#][^\s<>\"]{0,1900})?(?![\w@])"
)
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL}){{0,126}}\.?|\[[0-9a-f:.]+\]")


class UrlMention(NamedTuple):
    """An address in a text. ``weak`` ones (``example.org``) count only where one was asked for."""

    url: str
    start: int
    end: int
    weak: bool = False


def find_urls(text: str) -> Iterator[UrlMention]:
    """Yield the addresses in order, those with a scheme first; ``www.`` counts as one."""
    covered = text
    for match in _WRITTEN.finditer(text):
        said = _trimmed(match.group())
        covered = covered.replace(match.group(), " " * len(match.group()), 1)
        url = url_of(said)
        if url is not None:
            yield UrlMention(url, match.start(), match.start() + len(said))
    for match in _BARE.finditer(covered):
        said = _trimmed(match.group())
        url = url_of(f"https://{said}")
        if url is not None:
            weak = not said.lower().startswith("www.")
            yield UrlMention(url, match.start(), match.start() + len(said), weak)


def url_of(text: str) -> str | None:
    """Return the normalised address that the whole text is, or ``None``.

    Scheme and host in lower case, names of other scripts as punycode, no standard port, a path, what is
    not ASCII percent-encoded.
    """
    if not 0 < len(text) <= MAX_CHARS or any(c.isspace() for c in text) or not _WRITTEN.match(text):
        return None
    try:
        url = Url(text)
        written = str(url)
    except (ValidationError, ValueError):
        return None
    host = url.host or ""
    if url.username or url.password or len(host) > 253 or not _HOST.fullmatch(host):
        return None
    return written if len(written) <= MAX_CHARS else None


def _trimmed(text: str) -> str:
    """Drop the sentence's marks behind an address, and a bracket that it does not open."""
    text = text.rstrip(".,;:!?'\u2019\u201d\u00bb")
    while text.endswith(")") and text.count(")") > text.count("("):
        text = text[:-1].rstrip(".,;:!?")
    return text
