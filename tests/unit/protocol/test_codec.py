"""The codec: limits, messages, identity of a command, cleaning of text."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import (
    CodecLimits,
    body_hash,
    clean_text,
    command_body,
    decode,
    encode,
    encode_bytes,
    hash_body,
    parse_object,
    peek,
)
from protocol.errors import ErrorCode, InvalidFrame
from protocol.frames import CLIENT_FRAME, CLIENT_FRAME_TYPES, Process
from tests.unit.protocol.wire import load

LIMITS = CodecLimits()
KEY = "0123456789abcdef"


def process(**fields: Any) -> dict[str, Any]:
    return {
        "type": "process",
        "id": "5",
        "conversation_id": "c1",
        "content": {"type": "text", "text": "hi"},
        **fields,
    }


def refusal(frame: Any, limits: CodecLimits = LIMITS) -> InvalidFrame:
    with pytest.raises(InvalidFrame) as caught:
        decode(frame if isinstance(frame, str | bytes) else json.dumps(frame), limits)
    return caught.value


def accepted_vectors() -> list[dict[str, Any]]:
    frames = [case["expect"].get("frame") for case in load("decoding.json", "client_frames")]
    return [frame for frame in frames if frame]


# --- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", accepted_vectors(), ids=lambda frame: frame["type"])
def test_what_was_decoded_encodes_to_the_same_frame(frame: dict[str, Any]) -> None:
    decoded = decode(encode(frame), LIMITS)
    assert decode(encode_bytes(decoded.model_dump()), LIMITS) == decoded


def test_every_frame_type_has_a_vector_that_is_accepted() -> None:
    assert {frame["type"] for frame in accepted_vectors()} == CLIENT_FRAME_TYPES


@pytest.mark.parametrize("frame", accepted_vectors(), ids=lambda frame: frame["type"])
def test_the_codec_and_the_discriminated_union_agree(frame: dict[str, Any]) -> None:
    """The codec picks the model itself, for speed; the union is what the schema is made from."""
    assert CLIENT_FRAME.validate_python(frame) == decode(encode(frame), LIMITS)


def test_text_and_bytes_are_the_same() -> None:
    text = json.dumps(process(content={"type": "text", "text": "né"}), ensure_ascii=False)
    assert decode(text, LIMITS) == decode(text.encode(), LIMITS)


@pytest.mark.parametrize(
    ("frame", "message", "suggestion"),
    [
        ({"type": "proces", "id": "1"}, 'There is no frame of type "proces".', "Did you mean process?"),
        (process(chanel="web"), 'There is no field "chanel" in a process frame.', "Did you mean channel?"),
        (process(limit=101), 'There is no field "limit" in a process frame.', None),
        ({"type": "state", "id": "1"}, "conversation_id is required.", None),
        (
            process(conversation_id="a b"),
            "conversation_id must be 1 to 64 characters out of A-Z a-z 0-9 . _ ~ -.",
            None,
        ),
        (process(on_busy="wait"), "on_busy must be one of 'enqueue', 'reject' or 'interrupt'.", None),
        (process(content=7), "content must be an object.", None),
        (process(channel=None), "channel must be one of", None),
        (process(id=7), "id must be a string.", None),
        (process(id=""), "id must have at least 1 character.", None),
        (process(id="x" * 65), "id must have at most 64 characters.", None),
        (
            {"type": "history", "id": "1", "conversation_id": "c", "limit": 0},
            "limit must be at least 1.",
            None,
        ),
        (
            {"type": "history", "id": "1", "conversation_id": "c", "limit": "1"},
            "limit must be an integer.",
            None,
        ),
        ({"type": "typing", "conversation_id": "c", "typing": "on"}, "typing must be true or false.", None),
        (process(processing_hints=[]), "processing_hints must be an object.", None),
        (process(flow_id="Big"), "flow_id must be 1 to 64 characters out of a-z 0-9 _ -.", None),
        ([], "A frame is one JSON object; this is a list.", None),
        ("nope", "The frame is not valid JSON: line 1 column 1.", None),
        (
            process(content={"type": "text", "text": "x" * 2001}),
            "content.text has 2001 characters",
            "Shorten",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_refusal_says_what_is_wrong_and_what_would_be_right(
    frame: Any, message: str, suggestion: str | None
) -> None:
    error = refusal(frame)
    assert error.message.startswith(message)
    assert suggestion is None or suggestion in (error.suggestion or "")


def test_every_kind_of_fault_has_words_of_its_own() -> None:
    """No vector ends in the sentence that is kept for what nobody thought of."""
    for case in load("decoding.json", "client_frames"):
        if "error" in case["expect"] and "json" in case:
            limits = CodecLimits(**case.get("limits", {}))
            assert "wrong value" not in refusal(case["json"], limits).message, case["name"]


@pytest.mark.parametrize("secret", ["s3cr3t" * 30, "a\x1b[31mb", "line\nbreak", "\u202egnp.exe"])
@pytest.mark.parametrize(
    "shape",
    [
        lambda s: {"type": "hello", "id": "1", "token": s, "resume": 5},
        lambda s: {"type": "auth", "id": "1", "token": [s]},
        lambda s: process(content={"type": "text", "text": [s]}),
        lambda s: process(conversation_id=s + " "),
        lambda s: {"type": s, "id": "1"},
        lambda s: {"type": "pong", s: 1},
        lambda s: process(content={"type": "text", "text": "a", "metadata": {s: 1e300}}),
    ],
)
def test_an_error_echoes_little_and_nothing_unprintable(shape: Any, secret: str) -> None:
    error = refusal(shape(secret))
    told = [error.message, error.field or "", error.suggestion or ""]
    assert all(len(text) <= 300 and text.isprintable() for text in told)
    assert all("s3cr3t" * 20 not in text for text in told)
    orjson.dumps(error.to_wire())


def test_a_token_is_never_echoed() -> None:
    for frame in (
        {"type": "hello", "id": "1", "token": 10**9 + 7},
        {"type": "auth", "id": "1", "token": {"k": "canary"}},
    ):
        assert "canary" not in str(refusal(frame).to_wire())
        assert "1000000007" not in str(refusal(frame).to_wire())


def test_the_first_fault_that_counts_is_told() -> None:
    """Size, then JSON, then numbers, then type, then shape."""
    assert refusal("{" * 70_000).code is ErrorCode.PAYLOAD_TOO_LARGE
    assert refusal('{"type":"nope","x":1e300').code is ErrorCode.INVALID_FRAME
    assert refusal('{"type":"nope","x":1e300}').field == "x"
    assert refusal('{"type":"nope","y":1}').code is ErrorCode.UNKNOWN_TYPE
    assert refusal('{"type":"pong","y":1}').code is ErrorCode.BAD_REQUEST


def test_the_input_is_not_changed_by_decoding() -> None:
    data = json.dumps(process(content={"type": "text", "text": "a\u0000b"})).encode()
    before = bytes(data)
    decode(data, LIMITS)
    assert data == before


@pytest.mark.parametrize(
    "data",
    [
        "[" * 65_536,
        '"' + '\\"' * 32_000,
        "\\" * 65_536,
        "[]" * 32_768,
        '{"a":' * 10_000,
        '{"a":[' + "9007199254740992.0," * 3_000 + "9007199254740993.0]}",
        '{"a":NaN,"b":[' + "1," * 30_000 + "1]}",
        '{"a":' + "9" * 65_000 + "}",
        '{"a":1,"a":' + "9" * 65_000 + ',"b":NaN}',
        '{"a":0.' + "9" * 65_000 + "}",
        '{"a":1e-' + "9" * 65_000 + "}",
        '{"a":9007199254740992.0,"b":1e-' + "9" * 10_000 + "}",
        '{"' + "k" * 65_000 + '":1}',
        "{" + ",".join(f'"{n}":{n}' for n in range(6_000)) + "}",
    ],
    ids=lambda data: data[:12],
)
def test_the_worst_frames_are_refused_in_linear_time(data: str) -> None:
    """A quadratic step would take minutes on these, and the test's time-out would end it."""
    refusal(data)


def test_peek_reads_type_and_id_and_never_raises() -> None:
    assert peek('{"type":"state","id":"7","x":1e300}') == ("state", "7")
    assert peek('{"type":3,"id":4}') == (None, None)
    assert peek('{"id":"' + "x" * 65 + '"}') == (None, None)
    unreadable: list[str | bytes] = ["", "[]", "nope", "[" * 60_000, b"\xff", "\ud800", "null"]
    for data in unreadable:
        assert peek(data) == (None, None)


def test_parse_object_serves_rest_bodies_too() -> None:
    assert parse_object(b'{"a": {"b": [1, 2.5, null]}}', 100) == {"a": {"b": [1, 2.5, None]}}
    with pytest.raises(InvalidFrame) as caught:
        parse_object(b'{"a": 1}', 7)
    assert caught.value.http_status == 413


# --- text ----------------------------------------------------------------------------------------


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean_text(clean_text(text)) == clean_text(text)


@given(st.text())
def test_cleaning_only_removes(text: str) -> None:
    rest = iter(text)
    assert all(character in rest for character in clean_text(text))


CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
BIDI = [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]


@pytest.mark.parametrize("code", CONTROLS + BIDI)
def test_control_and_bidi_characters_are_removed(code: int) -> None:
    kept = chr(code) if chr(code) in "\n\t" else ""
    assert clean_text(f"a{chr(code)}b") == f"a{kept}b"


@pytest.mark.parametrize(
    "text", ["", "hi there", "né ü 漢字 😀", "👩‍👩‍👧", "\u200bx", "a\n\tb", "\ufeffx", "\u2028"]
)
def test_everything_else_stays(text: str) -> None:
    assert clean_text(text) == text


# --- identity ------------------------------------------------------------------------------------


def command(**fields: Any) -> Any:
    return decode(json.dumps(process(**fields)), LIMITS)


@pytest.mark.parametrize("name", ["process", "reset", "acceptance", "clarification", "cancel"])
def test_command_body_is_the_dumped_frame_without_id_and_key(name: str) -> None:
    frames = [frame for frame in accepted_vectors() if frame["type"] == name]
    assert frames
    for frame in frames:
        expected = {key: value for key, value in frame.items() if key not in ("id", "idempotency_key")}
        decoded: Any = decode(encode(frame), LIMITS)
        assert command_body(decoded) == expected
        orjson.dumps(command_body(decoded))


def test_changing_a_body_does_not_change_the_frame() -> None:
    frame = command()
    command_body(frame)["content"]["text"] = "changed"
    assert frame.content.text == "hi"


def test_the_hash_covers_everything_but_id_and_key() -> None:
    same = body_hash(command(), "u")
    assert body_hash(command(id="other", idempotency_key=KEY), "u") == same
    assert body_hash(command(channel="web", on_busy="enqueue", flow_id=None), "u") == same
    changed = [
        command(content={"type": "text", "text": "hello"}),
        command(content={"type": "text", "text": "hi", "metadata": {"a": 1}}),
        command(channel="api"),
        command(on_busy="reject"),
        command(flow_id="f"),
        command(conversation_id="c2"),
        command(processing_hints={"a": 1}),
    ]
    hashes = {body_hash(frame, "u") for frame in changed}
    assert len(hashes) == len(changed)
    assert same not in hashes


def test_the_hash_covers_the_user_it_acts_for() -> None:
    assert body_hash(command(), "u") != body_hash(command(), "v")
    assert body_hash(command(user_id="u"), "u") == body_hash(command(), "u")


def test_the_hash_does_not_depend_on_the_order_of_fields() -> None:
    fields = process(content={"metadata": {"b": 1, "a": {"d": 1, "c": 2}}, "text": "hi", "type": "text"})
    backwards = json.dumps(dict(reversed(fields.items())))
    shuffled: Any = decode(
        backwards.replace('{"b": 1, "a": {"d": 1, "c": 2}}', '{"a":{"c":2,"d":1},"b":1}'), LIMITS
    )
    straight: Any = decode(json.dumps(fields), LIMITS)
    assert body_hash(shuffled, "u") == body_hash(straight, "u")
    assert hash_body(command_body(straight), "u") == body_hash(straight, "u")


def test_the_hash_is_the_same_for_ever() -> None:
    """Stored hashes outlive the process: this one changes only with a migration."""
    assert body_hash(command(), "u") == "333e674de9f4e098d606558b46adc943"


def test_commands_of_different_types_never_share_a_hash() -> None:
    reset: Any = decode('{"type":"reset","id":"1","conversation_id":"c1"}', LIMITS)
    cancel: Any = decode('{"type":"cancel","id":"1","conversation_id":"c1"}', LIMITS)
    assert body_hash(reset, "u") != body_hash(cancel, "u")


def test_decoded_process_is_frozen() -> None:
    frame = command()
    assert isinstance(frame, Process)
    with pytest.raises(ValueError, match="frozen"):
        frame.channel = "api"  # type: ignore[misc]
