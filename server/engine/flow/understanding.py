"""Understanding without a model: which flow a message or a pressed button starts.

In order of certainty: a button's payload, an example word for word, keywords, examples by overlap. Pure;
everything is prepared when the flows are known, so a message costs a look-up for each of its words.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from server.engine.flow.model import Flow
from server.engine.flow.words import Word, find_phrases, fold, phrase_table, word_set, words_of

COMMANDS: Final = frozenset({"restart"})
MAX_WORDS: Final = 400

_STOP_WORDS: Final = word_set(
    "a an the i me my we our you your it is are am be to of for in on at and or with do does can "
    "could would will want need like please have has get got this that there what how hello hi "
    "hey ich du wir ein eine der die das und ist bitte mochte je tu nous un une le la les et est "
    "s'il vous plait yo el los y es por favor quiero"
)
_STOP_WEIGHT: Final = 0.2


class Match(NamedTuple):
    """A flow that fits, through which intent (``None``: named itself), and how well (0 to 1)."""

    flow_id: str
    intent: str | None
    score: float


class _Example(NamedTuple):
    place: int
    words: frozenset[str]
    weight: float
    minimum: float


def _weight(word: str) -> float:
    return _STOP_WEIGHT if word in _STOP_WORDS else 1.0


class Understanding:
    """The triggers of some flows; earlier flows win where two fit alike."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        self._intents = [(flow.flow_id, intent) for flow in flows for intent in flow.triggers]
        self._payloads: dict[str, Match] = {}
        self._exact: dict[str, Match] = {}
        self._examples: list[_Example] = []
        self._by_word: dict[str, list[int]] = defaultdict(list)
        keywords: list[tuple[str, str]] = []
        for place, (flow_id, intent) in enumerate(self._intents):
            match = Match(flow_id, intent.name, 1.0)
            for payload in intent.payloads:
                self._payloads.setdefault(payload, match)
            keywords += [(keyword, str(place)) for keyword in intent.keywords]
            for example in intent.examples:
                self._add_example(place, example, intent.minimum)
                self._exact.setdefault(fold(example), match)
        for flow in flows:
            self._payloads.setdefault(flow.flow_id, Match(flow.flow_id, None, 1.0))
            self._payloads.setdefault(f"/{flow.flow_id}", Match(flow.flow_id, None, 1.0))
        self._keywords = phrase_table(keywords)
        self._shared = _shared_keywords(keywords)

    def _add_example(self, place: int, example: str, minimum: float) -> None:
        words = frozenset(fold(example).split())
        if not words:
            return
        for word in words:
            self._by_word[word].append(len(self._examples))
        self._examples.append(_Example(place, words, sum(map(_weight, words)), minimum))

    def match(self, text: str | None, payload: str | None) -> Match | None:
        """Return the flow that fits best; ``None`` where none does.

        A payload that is no intent's payload, no flow's id and no ``/flow_id`` matches nothing by
        itself; then the text, if any, decides.
        """
        if payload is not None:
            found = self._payloads.get(payload.strip())
            if found is not None:
                return found
        if not text:
            return None
        stripped = text.strip()
        if stripped.startswith("/"):
            return self._payloads.get(stripped)
        words = words_of(text)[:MAX_WORDS]
        if not words:
            return None
        return (
            self._exact.get(" ".join([word.text for word in words]))
            or self._match_keywords(words)
            or self._match_examples(words)
        )

    def _match_keywords(self, words: Sequence[Word]) -> Match | None:
        """More keywords win, then the one that comes first in the message, then the earlier flow."""
        hits: dict[int, set[tuple[str, ...]]] = defaultdict(set)
        first: dict[int, int] = {}
        for found in find_phrases(words, self._keywords):
            phrase = tuple([word.text for word in words[found.first : found.last]])
            for place in self._shared[phrase]:
                hits[place].add(phrase)
                first.setdefault(place, found.first)
        if not hits:
            return None
        weight = {place: sum(map(len, phrases)) for place, phrases in hits.items()}
        best = min(hits, key=lambda place: (-weight[place], first[place], place))
        flow_id, intent = self._intents[best]
        return Match(flow_id, intent.name, 0.9 + 0.02 * min(weight[best], 4))

    def _match_examples(self, words: Sequence[Word]) -> Match | None:
        """Overlap: three quarters how much of the example is said, one how much of the message that is."""
        said = {word.text for word in words}
        common: dict[int, float] = defaultdict(float)
        for word in said:
            for number in self._by_word.get(word, ()):
                common[number] += _weight(word)
        total = sum(map(_weight, said))
        best: tuple[float, int] | None = None
        for number, weight in common.items():
            example = self._examples[number]
            score = 0.75 * weight / example.weight + 0.25 * weight / total
            if score + 1e-9 >= example.minimum and (best is None or (-score, example.place) < best):
                best = (-score, example.place)
        if best is None:
            return None
        flow_id, intent = self._intents[best[1]]
        return Match(flow_id, intent.name, min(1.0, -best[0]))

    @staticmethod
    def command(text: str | None) -> str | None:
        """Return the name of a command such as ``/restart``; ``None`` where the text is none."""
        name = (text or "").strip().lower()
        return name[1:] if name.startswith("/") and name[1:] in COMMANDS else None


def _shared_keywords(keywords: Sequence[tuple[str, str]]) -> dict[tuple[str, ...], list[int]]:
    """Return for each keyword all intents that list it; one may be several flows'."""
    shared: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for keyword, place in keywords:
        phrase = tuple(fold(keyword).split())
        if phrase and int(place) not in shared[phrase]:
            shared[phrase].append(int(place))
    return shared
