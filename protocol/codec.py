"""Bytes to client frames, dictionaries to bytes, and the hash that identifies a command's content.

``decode`` is the one door through which a peer's JSON comes in; REST bodies go through the same
functions. It checks, in this order, and stops at the first fault:

1. size (``payload_too_large``; over a socket the session closes 1009),
2. UTF-8, depth, JSON, numbers (``invalid_frame``),
3. the frame's ``type`` (``unknown_type``),
4. its shape and the rules between fields (``bad_request``).

Every error names the field where one is to blame, says what would be right, carries the frame's
``id`` where that could be read, and never echoes more than a few characters of what was sent.

Why two JSON parsers: ``orjson`` is fast and strict (it refuses NaN, Infinity and lone surrogates) but
cannot say *which* field was wrong, so what it refuses is read once more by the tolerant parser of the
standard library to find the culprit. Nothing that only the tolerant one accepts ever gets through.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final, NoReturn, TypeVar, get_args

import orjson
from pydantic import BaseModel, ValidationError

from protocol.errors import ErrorCode, InvalidFrame
from protocol.frames import ClientFrame, Command, Process, Subscribe

MAX_DEPTH: Final = 32
"""Levels of objects and lists; the frame itself is the first."""

MAX_NUMBER: Final = 2**53
"""The largest magnitude up to which every integer is exact in every JSON implementation."""


@dataclass(frozen=True, slots=True)
class CodecLimits:
    """What a client frame may measure.

    Attributes:
        max_frame_bytes: UTF-8 bytes of one frame.
        message_max_chars: characters (code points) of ``content.text``, after cleaning.
    """

    max_frame_bytes: int = 65_536
    message_max_chars: int = 2_000


_MODELS: Final[Mapping[str, type[BaseModel]]] = {
    get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(get_args(ClientFrame)[0])
}
_VALIDATORS: Final[Mapping[str, Callable[[Any], Any]]] = {
    name: model.__pydantic_validator__.validate_python for name, model in _MODELS.items()
}


# --- decoding -----------------------------------------------------------------------------------


def decode(data: str | bytes, limits: CodecLimits) -> ClientFrame:
    """Return the client frame that ``data`` holds.

    Raises:
        InvalidFrame: with ``code`` ``payload_too_large``, ``invalid_frame``, ``unknown_type`` or
            ``bad_request``, ``field`` where one is to blame, ``frame_id`` where it could be read.
    """
    return validate(parse_object(data, limits.max_frame_bytes), limits)


def parse_object(data: str | bytes, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object in ``data``, checked for size, encoding, depth and numbers.

    Of duplicate keys the last one wins. REST bodies are read with this too.

    Raises:
        InvalidFrame: ``payload_too_large`` or ``invalid_frame``.
    """
    # Lone surrogates go through as bytes that are no UTF-8, and orjson verifies the encoding.
    raw = data if isinstance(data, bytes) else data.encode(errors="surrogatepass")
    if len(raw) > max_bytes:
        raise InvalidFrame(
            f"The frame has {len(raw)} bytes; at most {max_bytes} are allowed.",
            code=ErrorCode.PAYLOAD_TOO_LARGE,
            suggestion="Send less at once, or put large content elsewhere and send its address.",
        )
    _check_depth(raw)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        _refuse_json(raw, error)
    if type(value) is not dict:
        raise InvalidFrame(
            f"A frame is one JSON object; this is {_kind(value)}.", suggestion='{"type": "...", "id": "..."}'
        )
    _check_numbers(value, raw)
    return value


def validate(fields: dict[str, Any], limits: CodecLimits) -> ClientFrame:
    """Return the client frame made of ``fields`` (which is cleaned in place).

    Raises:
        InvalidFrame: ``unknown_type`` or ``bad_request``.
    """
    name = fields.get("type")
    if type(name) is not str or name not in _VALIDATORS:
        _refuse_type(fields)
    content = fields.get("content")
    if type(content) is dict and type(text := content.get("text")) is str:
        content["text"] = clean_text(text)
    try:
        frame: ClientFrame = _VALIDATORS[name](fields)
    except ValidationError as error:
        raise _shape_error(error, fields, _MODELS[name]) from None
    if type(frame) is Process:
        _check_content(frame, limits)
    elif type(frame) is Subscribe:
        _check_subscribe(frame)
    return frame


Body = TypeVar("Body", bound=BaseModel)


def validate_body(fields: dict[str, Any], model: type[Body]) -> Body:
    """Return the body of a REST request as its (closed, strict) ``model``.

    Raises:
        InvalidFrame: ``bad_request``, with the field that is to blame.
    """
    try:
        return model.__pydantic_validator__.validate_python(fields)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise _shape_error(error, fields, model, "this body") from None


def peek(data: str | bytes) -> tuple[str | None, str | None]:
    """Return ``type`` and ``id`` of a frame that is refused unread, None where unreadable. Never raises."""
    try:
        fields = orjson.loads(data)
    except ValueError:
        return None, None
    name = fields.get("type") if type(fields) is dict else None
    return name if type(name) is str else None, _frame_id(fields)


_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def _check_depth(raw: bytes) -> None:
    """Refuse nesting beyond ``MAX_DEPTH`` in time linear in the size, before any parser recurses."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return  # cannot be deeper than it has opening brackets; nearly every frame ends here
    depth = 0
    # The string pattern is possessive and takes an unterminated string to the end: never quadratic.
    for bracket in _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise InvalidFrame(
                f"The frame is nested more than {MAX_DEPTH} levels deep.",
                suggestion=f"Flatten it to at most {MAX_DEPTH} levels, its own object included.",
            )


def _check_numbers(value: dict[str, Any], raw: bytes) -> None:
    """Refuse any number beyond ``MAX_NUMBER``. orjson turns integers above 64 bit into floats."""
    found = _find_number(value)
    if found is None:
        return
    path, number = found
    if type(number) is float and abs(number) == MAX_NUMBER:
        # 9007199254740993.0 is beyond, but its nearest float is not: only the text can tell.
        found = _find_number(json.loads(raw, parse_float=_exact_at_the_edge, parse_int=_int_or_float))
        if found is None:
            return
        path = found[0]
    raise InvalidFrame(
        f"{_dotted(path)} is beyond +-2^53, where not every integer has a number of its own.",
        field=_dotted(path),
        frame_id=_frame_id(value),
        suggestion="Send large numbers as strings.",
    )


def _find_number(value: Any) -> tuple[tuple[str | int, ...], int | float | Decimal] | None:
    """Return path and value of the first number that is too large (or a float at the very edge)."""
    items = value.items() if type(value) is dict else enumerate(value)
    for key, item in items:
        kind = type(item)
        if kind is str or item is None or kind is bool:
            continue
        if kind is dict or kind is list:
            if item and (found := _find_number(item)) is not None:
                return (key, *found[0]), found[1]
        elif not -MAX_NUMBER <= item <= MAX_NUMBER or (kind is float and abs(item) == MAX_NUMBER):
            return (key,), item
    return None


def _exact_at_the_edge(text: str) -> float | Decimal:
    number = float(text)
    return Decimal(text) if abs(number) == MAX_NUMBER else number


def _int_or_float(text: str) -> int | float:
    return int(text) if len(text) < 20 else float(text)


def _refuse_json(raw: bytes, error: orjson.JSONDecodeError) -> NoReturn:
    """Find what orjson disliked; JSON that only a tolerant parser takes gets its field named."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise InvalidFrame("The frame is not valid UTF-8.") from None
    try:
        value = json.loads(text, parse_int=_int_or_float)
    except ValueError:
        raise InvalidFrame(
            f"The frame is not valid JSON: line {error.lineno} column {error.colno}.",
            suggestion="Send one JSON object (RFC 8259) a text frame.",
        ) from None
    path = _find_unspeakable(value) or ()
    raise InvalidFrame(
        f"{_dotted(path) or 'The frame'} holds NaN, an infinite number or half of a surrogate pair.",
        field=_dotted(path) or None,
        frame_id=_frame_id(value),
        suggestion="Use null or a string for what is not a finite number; send text as whole characters.",
    )


def _find_unspeakable(value: Any) -> tuple[str | int, ...] | None:
    """Return the path to the first non-finite number or lone surrogate that the tolerant parser let in."""
    if isinstance(value, str):
        return () if _SURROGATE.search(value) else None
    if isinstance(value, float):
        return None if abs(value) < float("inf") else ()
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str) and _SURROGATE.search(key):
                return ()
            if (path := _find_unspeakable(item)) is not None:
                return (key, *path)
    return None


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


# --- shape --------------------------------------------------------------------------------------


def _check_content(frame: Process, limits: CodecLimits) -> None:
    content = frame.content
    text = content.text
    if text is not None and len(text) > limits.message_max_chars:
        raise InvalidFrame(
            f"content.text has {len(text)} characters; at most {limits.message_max_chars} are allowed.",
            code=ErrorCode.BAD_REQUEST,
            field="content.text",
            frame_id=frame.id,
            suggestion="Shorten the message or send it in parts.",
        )
    if content.payload is None and (text is None or text.isspace() or not text):
        raise InvalidFrame(
            "content.text is empty and there is no content.payload; a message needs one of them.",
            code=ErrorCode.BAD_REQUEST,
            field="content.text",
            frame_id=frame.id,
            suggestion='{"type": "text", "text": "hi"} or {"type": "button", "payload": "/book"}',
        )


def _check_subscribe(frame: Subscribe) -> None:
    if (frame.conversation_id is None) == (frame.execution_id is None):
        both = frame.conversation_id is not None
        raise InvalidFrame(
            "subscribe takes exactly one of conversation_id and execution_id;"
            f" {'both' if both else 'neither'} came.",
            code=ErrorCode.BAD_REQUEST,
            field="execution_id" if both else "conversation_id",
            frame_id=frame.id,
        )


def _refuse_type(fields: dict[str, Any]) -> NoReturn:
    name = fields.get("type")
    known = ", ".join(sorted(_MODELS))
    if type(name) is not str:
        missing = "is missing" if "type" not in fields else f"must be a string, not {_kind(name)}"
        raise InvalidFrame(
            f"type {missing}.",
            code=ErrorCode.BAD_REQUEST,
            field="type",
            frame_id=_frame_id(fields),
            suggestion=f"One of: {known}.",
        )
    raise InvalidFrame(
        f"There is no frame of type {_short(name)}.",
        code=ErrorCode.UNKNOWN_TYPE,
        field="type",
        frame_id=_frame_id(fields),
        suggestion=_did_you_mean(name, list(_MODELS)) or f"One of: {known}.",
    )


def _shape_error(
    error: ValidationError, fields: dict[str, Any], model: type[BaseModel], what: str | None = None
) -> InvalidFrame:
    """Make one sentence of what pydantic found: the unknown field if there is one, else the first."""
    faults = error.errors(include_url=False, include_input=False)
    # An unknown field goes first: where a name is misspelt it is the cause, "missing" only the effect.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    path = fault["loc"]
    field = _dotted(path)
    if fault["type"] == "extra_forbidden":
        allowed = _allowed_fields(model, path[:-1])
        message = f"There is no field {_short(field)} in {what or _article(model)}."
        suggestion = _did_you_mean(str(path[-1]), allowed) or f"Its fields: {', '.join(allowed)}."
    elif fault["type"] == "missing":
        message, suggestion = f"{field} is required.", None
    else:
        message, suggestion = f"{field} {_expectation(fault)}.", None
    return InvalidFrame(
        message,
        code=ErrorCode.BAD_REQUEST,
        field=_clip(field),
        frame_id=_frame_id(fields),
        suggestion=suggestion,
    )


_ID_RULES: Final[Mapping[str, str]] = {
    "conversation_id": "must be 1 to 64 characters out of A-Z a-z 0-9 . _ ~ -",
    "tenant_id": "must be 1 to 100 characters out of A-Z a-z 0-9 _ -",
    "flow_id": "must be 1 to 64 characters out of a-z 0-9 _ -",
    "user_id": "must be 1 to 128 printable characters",
    "idempotency_key": "must be 8 to 128 printable ASCII characters without a space at either end",
    "locale": "must be a language tag such as en or fr-CA",
    "timezone": "must be a time zone name such as Europe/Paris",
}
_KINDS: Final[Mapping[str, str]] = {
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be an integer",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}


def _expectation(fault: Mapping[str, Any]) -> str:
    """Say what would be right, from pydantic's error type and context, never from the input."""
    kind = fault["type"]
    context = fault.get("ctx", {})
    if kind in _KINDS:
        return _KINDS[kind]
    name = str(fault["loc"][-1])
    if kind == "string_pattern_mismatch" and name in _ID_RULES:
        return _ID_RULES[name]
    match kind:
        case "literal_error":
            return f"must be one of {context['expected']}"
        case "string_too_short":
            return f"must have at least {context['min_length']} character"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case _:
            return "has a wrong value"


def _allowed_fields(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """Return the field names of the (nested) model at ``path``."""
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        candidates = (annotation, *get_args(annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)


def _did_you_mean(name: str, known: list[str]) -> str | None:
    close = get_close_matches(name[:64].strip().lower(), known, n=1)
    return f"Did you mean {close[0]}?" if close else None


def _article(model: type[BaseModel]) -> str:
    name = model.__name__.lower()
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name} frame"


def _dotted(path: tuple[str | int, ...]) -> str:
    return _clip(".".join(map(str, path)))


def _clip(text: str) -> str:
    """Cut and clean what came from the peer before it stands in an answer."""
    return "".join(c if c.isprintable() else "?" for c in text[:100])


def _short(name: str) -> str:
    return f'"{_clip(name[:40])}{"..." if len(name) > 40 else ""}"'


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "true or false", str: "a string", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _frame_id(fields: Any) -> str | None:
    found = fields.get("id") if type(fields) is dict else None
    return found if type(found) is str and 1 <= len(found) <= 64 and not _SURROGATE.search(found) else None


# --- text ---------------------------------------------------------------------------------------

_UNWANTED: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean_text(text: str) -> str:
    """Remove control characters (but newline and tab) and bidi marks; a text is never refused for them.

    Bidi marks are the ones of Unicode's UAX 9: they can make text read as something else. Joiners stay:
    emoji and several scripts need them.
    """
    if text.isprintable():
        return text
    return _UNWANTED.sub("", text)


# --- encoding and identity ----------------------------------------------------------------------


def encode(obj: Any) -> str:
    """Return ``obj`` as one line of JSON text.

    Raises:
        orjson.JSONEncodeError: ``obj`` is not JSON; a fault of our own code, never of a peer.
    """
    return orjson.dumps(obj).decode()


def encode_bytes(obj: Any) -> bytes:
    """Return ``obj`` as UTF-8 JSON, for hot paths and storage. Raises as ``encode``."""
    return orjson.dumps(obj)


HASH_DIGITS: Final = 32
"""128 bits are ample to tell apart the commands of one key, and each record keeps 64 of them."""


def command_body(frame: Command) -> dict[str, Any]:
    """Return a command as plain JSON without ``id`` and ``idempotency_key``; defaults are written out."""
    # The models are flat but for process.content, so their __dict__ is 5x faster than model_dump.
    body = dict(frame.__dict__)
    del body["id"], body["idempotency_key"]
    if type(frame) is Process:
        body["content"] = dict(frame.content.__dict__)
    return body


def body_hash(frame: Command, user_id: str) -> str:
    """Return the hash (128 bits of SHA-256, hex) that tells a resent command from another under its key.

    Covers the validated frame without ``id`` and ``idempotency_key``, plus the user it acts for: a
    ``user_id`` left out and one's own written out are the same command. Field order does not matter.
    """
    return hash_body(command_body(frame), user_id)


def hash_body(body: Mapping[str, Any], user_id: str) -> str:
    """Return ``body_hash`` for a body that ``command_body`` has already made."""
    canonical = orjson.dumps({**body, "user_id": user_id}, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()[:HASH_DIGITS]
