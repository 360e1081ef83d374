"""A corpus in the manner of JSONTestSuite: what must be read as JSON, and what must not.

Each text stands as the value of a field that may hold any JSON, and alone as a whole frame.
"""

import json
from typing import Any

import pytest

from protocol.codec import CodecLimits, decode
from protocol.errors import ErrorCode, InvalidFrame

LIMITS = CodecLimits()
HEAD = '{"type":"clarification","id":"9","conversation_id":"c","pending_id":"p","answers":{"a":'

VALID = [
    "null", "true", "false", "0", "-0", "0.0", "-0.0", "1", "-1", "1.5", "1e0", "1E0", "1e+0", "1e-0",
    "0e1", "0e+1", "0E-1", "123e2", "1.5e-7", "1e15", "1e-10000", "4e-324", "-5e-324", "9007199254740992",
    "-9007199254740992", "9.007199254740992e15", "0.1e16", "1234567890123456e-3", '""', '" "', '"a"',
    '"\\""', '"\\\\"', '"\\/"', '"/"', '"\\b\\f\\n\\r\\t"', '"\\u0000"', '"\\u001f"', '"\\u0061"',
    '"\\u00e9"', '"\\u20AC"', '"\\ud834\\udd1e"', '"\\uDBFF\\uDFFF"', '"\\uFFFF"', '"\\ufffe"', '"\x7f"',
    '"\u0080"', '"\u2028\u2029"', '"\ufeff"', '"\U0010ffff"', '"é"', '"漢字"', '"😀"', '"/*comment*/"',
    '"//"',
    '"[[[["', '"}}}}"', '"{\\"a\\":1}"', '"null"', '"NaN"', '"\\\\u0041"', "[]", "{}", "[ ]", "{ }", "[\n]",
    "[null]", "[1,2]", "[[]]", "[{}]", '[""]', "[1 , 2\t,\r3\n]", '{"":0}', '{"a":null}', '{"a":{"b":[]}}',
    '{"\\u0000":1}', '{"a":1,"b":2}', '{"a":1,"a":2}', '{"constructor":1}', '{"__proto__":{}}',
    '{"$ne":null}', '{"a.b":1}', '{"toString":"x"}', " 1 ", "\t1", "1\n", "\r1", "[" * 29+"]" * 29,
    "["+"[]," * 200+"1]",
]  # fmt: skip

INVALID = [
    # nothing, words, other languages
    "", " ", "nul", "nulL", "NULL", "True", "FALSE", "None", "undefined", "nan", "+NaN", "inf", "a", "'a'",
    "`a`", "a: 1", "(1)", "/*1*/", "1//", "#1", "<null>", "1;", "%", "@", "\\", "\x00", "\x1b", "\u00a0",
    "\u2060", "\u2003", "\x0c", "\x0b", "é", "😀", "&quot;a&quot;", "=1",
    # numbers
    "+1", "++1", "-", "--1", "- 1", "+", ".", ".5", "-.5", "5.", "-5.", "01", "-01", "00", "-00", "0x1",
    "0b1", "0o1", "1e", "1e+", "1e-", "1ee1", "1e1.5", "1.e1", ".e1", "e1", "1_000", "1,000.5.", "1.2.3",
    "1 000", "1a", "0.1.2", "1+2", "1/2", "Infinit", "-Infinit", "1eE2", "0e", "0e+", "9.e+", "1e\u0665",
    "\uff11",
    # strings
    '"', '"a', 'a"', '"""', '"\\"', '"\\a"', '"\\x00"', '"\\0"', '"\\u"', '"\\u0"', '"\\u00"', '"\\u000"',
    '"\\u000g"', '"\\U0041"', '"\\u{41}"', "\"\\'\"", '"\\ "', '"\\\n"', '"\n"', '"\t"', '"\r"', '"\x00"',
    '"\x1f"', '"\x08"', '"a" "b"', '"a"b', '"\\😀"', '"\\u-123"', '"\\u 041"',
    # lists
    "[", "]", "[[]", "[]]", "[,]", "[1,]", "[,1]", "[1,,2]", "[1 2]", "[1;2]", "[1:2]", "[a]", "[-]",
    "[\n1,\n", "[1}", "[}", "[1,", '["a"', '["a', "[\x00]", "[1]x", "[1],", "[]1", "[*]", "[...]", "[++1]",
    "['a']",
    # objects
    "{", "}", "{}}", "{,}", '{"a"}', '{"a":}', '{"a":1,}', '{,"a":1}', '{"a":1,,"b":2}', '{"a" 1}',
    '{"a"=1}', '{"a"::1}', '{"a":1 "b":2}', "{a:1}", "{'a':1}", "{1:1}", "{null:1}", "{[]:1}", "{:1}",
    '{"a":1', '{"a":', '{"a"', '{"a', '{"a":1]', '{"a":1}}x', '{"a":/*c*/1}', '{"a":1//c\n}', '{"a":1}#',
    '{"a"\x00:1}', '{"a":1};', '{"a":"b"', "{{}}", "{[]}", '{"a":1,"b"}', '{"\\uD800\\":1}',
    '{"a":1;"b":2}',
]  # fmt: skip

REFUSED_VALUES = [
    "NaN", "Infinity", "-Infinity", "1e309", "-1e309", "1e9999", "9007199254740993", "1e16", "-1e16",
    "18446744073709551615", "18446744073709551616", "-9223372036854775809", "9" * 400, "1"+"0" * 400,
    '"\\ud800"', '"\\uD800\\uD800"', '"\\udfff"', '"a\\udbffb"', '"\\ud800\\u0041"', '"\\ud83d\\n"',
    "[NaN]", '{"b":Infinity}', '["\\ud800"]', "[1e300]",
]  # fmt: skip


def field_frame(text: str) -> str:
    return HEAD + text + "}}"


def unnamed(values: list[str]) -> Any:
    return [pytest.param(text, id=f"{number}-{text[:20]!a}") for number, text in enumerate(values)]


@pytest.mark.parametrize("text", unnamed(VALID))
def test_valid_json_is_read_as_the_standard_says(text: str) -> None:
    decoded: Any = decode(field_frame(text), LIMITS)
    assert decoded.answers["a"] == json.loads(text)


@pytest.mark.parametrize("text", unnamed(INVALID))
def test_invalid_json_is_an_invalid_frame(text: str) -> None:
    for data in (field_frame(text), text, field_frame(text).encode(), text.encode()):
        with pytest.raises(InvalidFrame) as caught:
            decode(data, LIMITS)
        assert caught.value.code is ErrorCode.INVALID_FRAME


@pytest.mark.parametrize("text", unnamed(REFUSED_VALUES))
def test_a_value_beyond_the_protocol_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(InvalidFrame) as caught:
        decode(field_frame(text), LIMITS)
    error = caught.value
    assert error.code is ErrorCode.INVALID_FRAME
    assert error.frame_id == "9"
    assert error.field is not None
    assert error.field.startswith("answers.a")


@pytest.mark.parametrize("text", unnamed(VALID))
def test_valid_json_that_is_no_frame_is_refused_without_a_crash(text: str) -> None:
    with pytest.raises(InvalidFrame) as caught:
        decode(text, LIMITS)
    assert caught.value.frame_id is None


@pytest.mark.parametrize("cut", range(len(field_frame('[1.5e-3,"\\u00e9"]'))))
def test_a_frame_cut_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(InvalidFrame) as caught:
        decode(field_frame('[1.5e-3,"\\u00e9"]')[:cut], LIMITS)
    assert caught.value.code is ErrorCode.INVALID_FRAME


BAD_UTF8 = [
    b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc2", b"\xe0\x80\x80", b"\xe0\xa0", b"\xed\xa0\x80",
    b"\xed\xbf\xbf", b"\xf0\x80\x80\x80", b"\xf0\x90\x80", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80",
    b"\xf8\x88\x80\x80\x80", b"\xfe", b"\xff", b"\xff\xfe", b"\xe9", b"\xf0\x9f\x98",
]  # fmt: skip


@pytest.mark.parametrize("raw", BAD_UTF8, ids=lambda raw: raw.hex())
def test_bytes_that_are_no_utf8_are_refused(raw: bytes) -> None:
    for data in (field_frame('"%"').encode().replace(b"%", raw), raw, b'{"type":"pong"}' + raw):
        with pytest.raises(InvalidFrame) as caught:
            decode(data, LIMITS)
        assert caught.value.code is ErrorCode.INVALID_FRAME
