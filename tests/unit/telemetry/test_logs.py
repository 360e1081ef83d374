"""Logs: one line an event, ids on it, no secret and no control character in it."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from server.telemetry.logs import MASK, MAX_TEXT_CHARS, clean, configure_logging, redact

JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJlLWNhbmFyeQ"


class Lines(io.StringIO):
    """What was logged."""

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def out() -> Iterator[Lines]:
    """A stream for logs; the process's own logging is put back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield Lines()
    logging.captureWarnings(False)
    root.handlers, root.level = before
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_an_event_is_a_json_object_on_one_line(out: Lines) -> None:
    configure_logging("info", "json", stream=out)
    structlog.get_logger().info("started", port=8765, hosts=["a"], ok=True, none=None)
    (row,) = out.rows()
    assert row.pop("time").endswith("Z")
    assert row == {
        "event": "started", "level": "info", "port": 8765, "hosts": ["a"], "ok": True, "none": None
    }  # fmt: skip


def test_console_lines_are_for_people(out: Lines) -> None:
    configure_logging("info", "console", stream=out)
    structlog.get_logger().info("started", port=8765)
    assert "started" in out.getvalue()
    assert "port=8765" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_ids_of_the_context_and_of_the_logger_are_on_the_line(out: Lines) -> None:
    configure_logging("info", "json", stream=out)
    log = structlog.get_logger().bind(connection_id="n1")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("a")
        logging.getLogger("parley.engine").info("b")
    log.info("c")
    first, second, third = out.rows()
    assert (first["connection_id"], first["request_id"]) == ("n1", "r1")
    assert second["request_id"] == "r1"
    assert "request_id" not in third


def test_what_is_below_the_level_is_not_logged(out: Lines) -> None:
    configure_logging("warning", "json", stream=out)
    structlog.get_logger().info("no")
    logging.getLogger("server.x").info("no")
    structlog.get_logger().warning("yes")
    logging.getLogger("server.x").warning("yes")
    assert [row["event"] for row in out.rows()] == ["yes", "yes"]


def test_other_libraries_are_heard_from_warning_on(out: Lines) -> None:
    configure_logging("info", "json", stream=out)
    logging.getLogger("websockets").info("< TEXT hello")
    logging.getLogger("uvicorn.error").info("connection open")
    logging.getLogger("websockets").warning("odd")
    assert [row["event"] for row in out.rows()] == ["odd"]
    configure_logging("debug", "json", stream=out)
    logging.getLogger("websockets").debug("< TEXT hello")
    logging.getLogger("websockets").info("open")
    assert [row["event"] for row in out.rows()] == ["odd", "open"]


def test_our_own_loggers_of_the_standard_library_follow_the_level(out: Lines) -> None:
    configure_logging("info", "json", stream=out)
    logging.getLogger("parley.actions").info("ran %s", "it")
    (row,) = out.rows()
    assert (row["event"], row["logger"]) == ("ran it", "parley.actions")


def test_uvicorn_lines_lose_the_query_of_their_urls(out: Lines) -> None:
    configure_logging("debug", "json", stream=out)
    path = "/v1/ws?token=canary&x=1"
    logging.getLogger("uvicorn.error").info('%s - "WebSocket %s" [accepted]', "1.2.3.4", path)
    logging.getLogger("uvicorn.access").info(
        '%s - "%s %s HTTP/%s" %d', "1.2.3.4", "GET", "/a?b=canary", "1.1", 200
    )
    first, second = out.rows()
    assert first["event"] == '1.2.3.4 - "WebSocket /v1/ws" [accepted]'
    assert second["event"] == '1.2.3.4 - "GET /a HTTP/1.1" 200'


def test_uvicorns_traceback_about_invalid_utf8_is_dropped(out: Lines) -> None:
    configure_logging("info", "json", stream=out)
    try:
        b"\xff".decode()
    except UnicodeDecodeError:
        logging.getLogger("uvicorn.error").exception("Invalid UTF-8 sequence received from client.")
    assert out.getvalue() == ""


def test_warnings_are_logged(out: Lines) -> None:
    configure_logging("info", "json", stream=out)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old thing", stacklevel=1)
    assert "old thing" in out.rows()[0]["event"]


def test_a_stream_that_is_gone_breaks_nobody(out: Lines) -> None:
    configure_logging("info", "json", stream=out)
    out.close()
    structlog.get_logger().info("lost")


SECRETS: dict[str, Callable[[Any], Any]] = {
    "text": lambda canary: f"what about {canary} then",
    "list": lambda canary: ["a", (canary,)],
    "mapping": lambda canary: {"deep": {"deeper": canary}},
    "key of a mapping": lambda canary: {canary: 1},
    "object": lambda canary: ValueError(canary),
    "bytes": lambda canary: canary.encode(),
}


@pytest.mark.parametrize("format_", ["json", "console"])
@pytest.mark.parametrize("where", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("secret", [JWT, JWT[:40], "sk_0123456789abcdef0123", "the-signing-secret"])
def test_a_canary_shows_nowhere(out: Lines, format_: Any, where: Callable[[Any], Any], secret: str) -> None:
    configure_logging("debug", format_, stream=out, secrets=["the-signing-secret"])
    log = structlog.get_logger()
    log.info(f"said {secret}", value=where(secret))  # noqa: G004
    log.bind(user=where(secret)).warning("bound")
    logging.getLogger("server.x").info("said %s", where(secret))
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        log.exception("failed")
        logging.getLogger("y").exception("failed %s", secret)
    assert secret not in out.getvalue()
    assert out.getvalue().count(MASK) >= 6


@pytest.mark.parametrize(
    "key",
    [
        "token", "access_token", "Authorization", "secret", "jwt_secret", "password", "X-API-Key", "api_key",
        "apikey", "cookie", "Set-Cookie", "private_key", "credentials",
    ],
)  # fmt: skip
def test_values_of_telling_keys_are_masked_whatever_they_are(key: str) -> None:
    assert redact({key: "canary", "in": {key: ["canary"]}}) == {key: MASK, "in": {key: MASK}}


@pytest.mark.parametrize("key", ["idempotency_key", "token_expires_in", "tokens_used", "key", "secretary"])
def test_values_of_harmless_keys_stay(key: str) -> None:
    assert redact({key: "plain"}) == {key: "plain"}


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ("Authorization: Bearer abc.def", "Authorization: *** abc.def"),
        ("with Bearer abc.def.", "with Bearer ***"),
        ("password=hunter2&x=1", "password=***&x=1"),
        ('{"token": "canary", "a": 1}', '{"token": "***", "a": 1}'),
        ("mongodb://ann:canary@host/db", "mongodb://***@host/db"),
        ("the token is late", "the token is late"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("c1 \x9b31m del \x7f", "c1 \\x9b31m del \\x7f"),
        ("turned \u202e around \u2028", "turned \\u202e around \\u2028"),
        ("half \ud800", "half \\ud800"),
        ("grüße 👋", "grüße 👋"),
    ],
)
def test_texts_are_cleaned(said: str, logged: str) -> None:
    assert clean(said) == logged


def test_long_texts_are_cut() -> None:
    assert len(clean("x" * 10**6)) == MAX_TEXT_CHARS + 3


def test_deep_values_are_cut_and_loops_end() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    assert "..." in str(redact(loop))


def test_numbers_that_json_cannot_hold_are_logged(out: Lines) -> None:
    configure_logging("info", "json", stream=out)
    structlog.get_logger().info("big", n=2**80, f=float("nan"))
    assert out.rows()[0]["n"] == str(2**80)


def test_a_message_cannot_forge_a_line(out: Lines) -> None:
    configure_logging("info", "console", stream=out)
    forged = "2026-11-21T00:00:00Z [info     ] forged"
    structlog.get_logger().info(f"x\n{forged}", y=f"\r\n{forged}")
    try:
        raise ValueError(f"\n{forged}")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert not [line for line in out.getvalue().splitlines() if line.startswith(forged)]


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=3), st.text(max_size=100))
def test_any_event_is_one_line_of_json(values: dict[str, str], event: str) -> None:
    out = Lines()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging("info", "json", stream=out)
        structlog.get_logger().info(event, value=values)
    finally:
        logging.captureWarnings(False)
        root.handlers, root.level = before
        structlog.reset_defaults()
    assert out.getvalue().count("\n") == 1
    assert len(out.rows()) == 1


@pytest.mark.parametrize(
    "secret", ["the-signing-secret", "redis://:p@ss-canary@h", "sk_live_canary-of-a-key"]
)
def test_a_secret_that_a_long_text_is_cut_in_is_masked(out: Lines, secret: str) -> None:
    configure_logging("info", "json", stream=out, secrets=["the-signing-secret"])
    log = structlog.get_logger()
    for shown in range(1, len(secret)):
        text = "x" * (MAX_TEXT_CHARS - shown - 1) + " " + secret
        log.info("said", text=text)
        try:
            raise ValueError("\n" + secret + " \n" + "x" * (4 * MAX_TEXT_CHARS - shown - 2))
        except ValueError:
            log.exception("failed")
    said = out.getvalue()
    assert "x" * 100 in said
    for part in ("sign", "cret", "p@ss", "ss-canary", "nary", "-of-a-key"):
        assert part not in said
