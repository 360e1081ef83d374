"""Words of a message: folded for comparison, with where they stand.

Folding drops case, accents and punctuation, so that "Café," and "cafe" are one word.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # noqa: RUF001 - typed by phones


def word_set(text: str) -> frozenset[str]:
    """Return the words of a table that is written as one text."""
    return frozenset(text.split())


class Word(NamedTuple):
    """A word, folded, and its place in the text."""

    text: str
    start: int
    end: int


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join([c for c in decomposed if not unicodedata.combining(c)]).replace("’", "'")  # noqa: RUF001


@lru_cache(maxsize=16)
def words_of(text: str) -> tuple[Word, ...]:
    """Return the words of a text; the few texts of a turn are remembered."""
    if text.isascii():
        return tuple([Word(m.group(), m.start(), m.end()) for m in _WORD.finditer(text.lower())])
    return tuple([Word(_folded(m.group()), m.start(), m.end()) for m in _WORD.finditer(text)])


def fold(text: str) -> str:
    """Return the text's words, folded, with single spaces between."""
    return " ".join([_folded(m.group()) for m in _WORD.finditer(text)])


Phrases = Mapping[str, Sequence[tuple[tuple[str, ...], str]]]
"""For each first word: the phrases (longest first) with what they mean."""


def phrase_table(meanings: Iterable[tuple[str, str]]) -> Phrases:
    """Build a table from (phrase, meaning) pairs; the first meaning of a phrase wins."""
    table: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for phrase, meaning in meanings:
        words = tuple(fold(phrase).split())
        known = table.setdefault(words[0], []) if words else []
        if all(other != words for other, _ in known):
            known.append((words, meaning))
    for entries in table.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    return table


class Found(NamedTuple):
    """A phrase in a text: its meaning, and the indexes of its first word and of the one behind it."""

    meaning: str
    first: int
    last: int


def find_phrases(words: Sequence[Word], table: Phrases) -> list[Found]:
    """Return the phrases in order; of overlapping ones the earlier and longer."""
    found: list[Found] = []
    index = 0
    while index < len(words):
        for phrase, meaning in table.get(words[index].text, ()):
            end = index + len(phrase)
            if len(phrase) == 1 or tuple([word.text for word in words[index:end]]) == phrase:
                found.append(Found(meaning, index, end))
                index = end - 1
                break
        index += 1
    return found
