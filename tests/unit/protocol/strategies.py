"""Frames for Hypothesis: valid ones of each type, and what a bad client makes of them.

Frames, changes and values come from pools of interesting ones rather than from nested generators:
one draw an example, so that tens of thousands of examples take seconds.
"""

import json
from random import Random
from typing import Any

from hypothesis import strategies as st

JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 50, 101, 1.5, -0.0, 1e15, 2**53, 2**53+1, -(2**53)-1, 2.0**53, 1e17, 2**63,
    2**64, 10**30, 1e300, 5e-324, float("nan"), float("inf"), float("-inf"), "", " ", "a", "x" * 65,
    "x" * 129, "x" * 2001, "é", "😀" * 64, "\x00", "\u202e", "a\nb", "\ud800", "\udc00a", "null", "1",
    "true", "{}", "$ne", "../../etc/passwd", "<script>", "${7*7}", "' OR 1=1 --", "__proto__",
    "constructor", [], {}, [None], [[]], {"a": 1}, {"a": {"b": {"c": []}}}, {"$ne": None}, {"type": "pong"},
    ["text"], {"text": "hi"}, [1e300], {"a": "\ud800"}, {"a": [float("nan")]}, [[[[[[[[]]]]]]]],
    ["x" * 300] * 3,
]  # fmt: skip
ODD_NAMES = [
    "", "x", "Type", "ID", "id ", "conversationId", "conversation_ids", "text", "__proto__", "é", "a.b",
    "\ud800", "x" * 300,
]  # fmt: skip

IDS = ["c1", "A.b_c~d-9", "x" * 64, " c1 "]
KEYS = [None, "0123456789abcdef", "~" * 128, "a key: 1"]
ENTITIES = ["p1", "x" * 128, " p 1 "]
REASONS = ["enough", "", "x" * 1000]
MAPS: list[dict[str, Any]] = [{}, {"a": 1}, {"a": [None, True, "x", 1.5]}, {"b": {"c": {"d": []}}, "é": "😀"}]
RESUMES = [None, {"epoch": "e7", "offset": 412}, {"epoch": None, "offset": 0}]
TEXTS = ["hi", "né\n\t", "😀" * 20, "x" * 2000, "a\x00b", "<b>", "  x  "]
CONTENTS: list[dict[str, Any]] = [
    *({"type": "text", "text": text} for text in TEXTS),
    *({"type": "text", "text": "hi", "payload": None, "metadata": metadata} for metadata in MAPS),
    {"type": "button", "payload": "/a"},
    {"type": "form", "payload": "", "text": None},
    {"type": "button", "payload": "x" * 2000, "text": " ", "metadata": {"a": 1}},
]

Pools = dict[str, list[Any]]
_ID: Pools = {"id": ["1", "é", " 7 ", "x" * 64, "😀", "\u202e"]}
_AT: Pools = {**_ID, "conversation_id": IDS}

# For each type: the values of its required fields, and of its optional ones.
FIELDS: dict[str, tuple[Pools, Pools]] = {
    "hello": (
        _ID,
        {
            "token": ["t.t.t", None, "x" * 4000],
            "conversation_id": IDS,
            "resume": RESUMES,
            "client": [None, {"name": "parley-js", "version": "1.0"}],
            "locale": [None, "en", "fr-CA"],
            "timezone": [None, "Europe/Paris", "Etc/GMT+3"],
        },
    ),
    "auth": ({**_ID, "token": ["t", "x" * 4000]}, {}),
    "subscribe": (_AT, {"resume": RESUMES, "execution_id": [None]}),
    "unsubscribe": (_AT, {}),
    "process": (
        {**_AT, "content": CONTENTS},
        {
            "idempotency_key": KEYS,
            "channel": ["web", "api", "sms"],
            "flow_id": [None, "book_1-a", " f "],
            "user_id": [None, "u", "Zoë|x", "😀" * 128],
            "tenant_id": [None, "t", "T_1-x"],
            "on_busy": ["enqueue", "reject", "interrupt"],
            "processing_hints": MAPS,
        },
    ),
    "state": (_AT, {}),
    "reset": (_AT, {"idempotency_key": KEYS, "reason": REASONS}),
    "acceptance": (
        {**_AT, "pending_id": ENTITIES, "accepted": [True, False]},
        {
            "idempotency_key": KEYS,
            "comment": REASONS,
            "edits": MAPS,
            "digest": [None, "ab" * 32],
            "user_id": [None, "u"],
        },
    ),
    "clarification": (
        {**_AT, "pending_id": ENTITIES, "answers": MAPS},
        {"idempotency_key": KEYS, "user_id": [None, "u"]},
    ),
    "cancel": (_AT, {"idempotency_key": KEYS, "execution_id": ENTITIES, "reason": REASONS}),
    "history": (_AT, {"before": [None, 0, 400, 2**53], "limit": [1, 50, 100]}),
    "typing": ({"conversation_id": IDS, "typing": [True, False]}, {}),
    "pong": ({}, {}),
}


def valid_frames(name: str, count: int = 300) -> list[dict[str, Any]]:
    """Return frames of type ``name`` that must be accepted: the least one first, then any mixture."""
    required, optional = FIELDS[name]
    chance = Random(name)
    frames: list[dict[str, Any]] = [{"type": name, **{key: values[0] for key, values in required.items()}}]
    for _ in range(count):
        fields = {key: chance.choice(values) for key, values in required.items()}
        present = [key for key in optional if chance.random() < 0.5]
        chance.shuffle(present)
        frames.append({"type": name, **fields, **{key: chance.choice(optional[key]) for key in present}})
    if name == "subscribe":
        frames += [{"type": name, "id": "3", "execution_id": entity} for entity in ENTITIES]
    return frames


Change = tuple[Any, ...]
CHANGES: list[Change] = [
    ("keep",),
    *(("drop", place) for place in range(10)),
    *(("type", name) for name in [*FIELDS, "ping", "Hello", "proces", ""]),
    *(("set", place, value) for place in range(10) for value in JUNK),
    *(("inside", place, value) for place in range(6) for value in JUNK),
    *(("add", key, value) for key in ODD_NAMES for value in JUNK),
]
EDITS: list[Change] = [
    ("keep",),
    *(("cut", at) for at in range(300)),
    *(("delete", at) for at in range(300)),
    *(("double", at) for at in range(60)),
    *(("insert", at, what) for at in range(300) for what in [*'{}[]",:\\ \x00é', "[[", '":', "1e999"]),
    *(("repeat", at, times) for at in range(0, 300, 7) for times in (40, 9_000)),
]
CHANGES_OR_NOT: list[Change] = [("keep",)] * len(CHANGES) + CHANGES
EDITS_OR_NOT: list[Change] = [("keep",)] * (3 * len(EDITS)) + EDITS
ENCODINGS = ["text", "escaped", "bytes"]


def damaged_frames(name: str) -> st.SearchStrategy[str | bytes]:
    """Return wire texts of frames of type ``name``, changed by a bad client, or by none.

    One draw of bytes stands for all choices: five draws would take four times as long.
    """
    pools: list[list[Any]] = [
        valid_frames(name),
        CHANGES_OR_NOT,
        CHANGES_OR_NOT,
        EDITS_OR_NOT,
        ENCODINGS,
    ]

    def build(drawn: bytes) -> str | bytes:
        number = int.from_bytes(drawn)
        chosen = []
        for pool in pools:
            number, place = divmod(number, len(pool))
            chosen.append(pool[place])
        return _damaged(*chosen)

    return st.binary(min_size=12, max_size=12).map(build)


def _damaged(
    valid: dict[str, Any], first: Change, second: Change, edit: Change, encoding: str
) -> str | bytes:
    frame = dict(valid)
    _apply(frame, first)
    _apply(frame, second)
    text = _edited(json.dumps(frame, ensure_ascii=encoding == "escaped"), edit)
    return text.encode(errors="surrogatepass") if encoding == "bytes" else text


def _apply(frame: dict[str, Any], change: Any) -> None:
    match change:
        case ("drop", place) if frame:
            del frame[list(frame)[place % len(frame)]]
        case ("set", place, value) if frame:
            frame[list(frame)[place % len(frame)]] = value
        case ("inside", place, value):
            nested = [key for key, inner in frame.items() if isinstance(inner, dict)]
            if nested:
                key = nested[place % len(nested)]
                inner = dict(frame[key])
                names = [*inner, "extra"]
                inner[names[place % len(names)]] = value
                frame[key] = inner
        case ("add", key, value):
            frame[key] = value
        case ("type", name):
            frame["type"] = name


def _edited(text: str, edit: Change) -> str:
    match edit:
        case ("cut", at):
            return text[:at]
        case ("delete", at):
            return text[:at] + text[at + 1 :]
        case ("insert", at, what):
            return text[:at] + str(what) + text[at:]
        case ("double", at):
            return text[: at + 1] + text[at:]
        case ("repeat", at, times):
            return text[:at] + text[at : at + 1] * int(times) + text[at + 1 :]
        case _:
            return text
