"""Logs: structured, with ids, and without secrets.

Every line of the process, structlog's and the standard library's (uvicorn, asyncio, warnings), goes
through one chain. It masks what is a secret by its key or its looks, and escapes whatever could forge a
line or drive a terminal, so a caller may log what a peer sent. What a peer *said* in a conversation is
not for logs at all; that is the caller's duty.

Ids are bound by the caller: ``structlog.contextvars.bind_contextvars(request_id=...)`` for what a task
does, ``structlog.get_logger().bind(connection_id=...)`` for what an object does.
"""

import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from server.telemetry.seldom import Seldom

MASK: Final = "***"
MAX_TEXT_CHARS: Final = 4096
MAX_DEPTH: Final = 6
OURS: Final = ("parley", "protocol", "storage", "server")
"""The standard library's loggers that have the level of the setting; all others have a higher one."""

STORE_UNAVAILABLE: Final = "store_unavailable"
SELDOM: Final = {STORE_UNAVAILABLE: 1.0}
"""What may happen a thousand times a second is one line in so many seconds; its ``count`` says how often."""

_SECRET_KEY = re.compile(
    r"(?i)(^|[_.-])(token|secret|password|passwd|authorization|cookie|credentials?|api[_-]?key|private[_-]?key)$"
)
_SECRETS = re.compile(
    r"""(?ix)
      (?P<jwt> \bey[IJ][a-z0-9_-]{10,} (?:\.[a-z0-9_-]*){0,4} )
    | (?P<key> \b(?:sk|pk|whsec)_[a-z0-9_-]{8,} )
    | (?P<scheme> \b(?:bearer|basic)\s+ ) [^\s,;"']+
    | (?P<url> ://)[^/?#\s"']+(?=@)
    | (?P<name> (?:token|secret|password|passwd|authorization|api[_-]?key) ["']? \s* [=:] \s* ["']? )
      [^\s&"',;}]+
    """
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_QUERY = re.compile(r"\?[^\s\"']*")

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]


def configure_logging(
    level: Level = "info",
    format: Format = "json",  # noqa: A002 - the setting's own word
    *,
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
    instance: str | None = None,
) -> None:
    """Send all logs of the process to ``stream`` (standard error), one line each.

    Other libraries are heard from ``warning`` on, at level ``debug`` from ``info`` on: their debug
    output holds whole frames. May be called again; loggers that were used before keep what they had.

    Args:
        level: the least level that is logged; below it a call costs next to nothing.
        format: JSON objects, or lines for people.
        stream: where to write.
        secrets: texts to mask wherever they show, e.g. the signing secret.
        instance: name of this process, which each line carries.
    """
    out = stream or sys.stderr
    chain = _chain(secrets, instance)
    structlog.configure(
        processors=[_thin_out(), structlog.contextvars.merge_contextvars, *chain, _renderer(format, out)],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_names: _Lines(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.addFilter(_tame_uvicorn)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_logger_name,
                *chain,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(format, out)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO if level == "debug" else logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        # Explicit, because uvicorn takes the level 0 of "not set" for its trace level.
        logger.setLevel(root.level)
    logging.captureWarnings(True)


def redact(value: Any, secrets: re.Pattern[str] | None = None) -> Any:
    """Return ``value`` with secrets masked and control characters escaped, as plain JSON types.

    Keys that name a secret lose their value whatever it is; texts lose what looks like one. Objects that
    are no JSON become their redacted ``repr``.
    """
    return _redact(value, secrets, MAX_DEPTH)


def _redact(value: Any, secrets: re.Pattern[str] | None, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 2**63 else str(value)
    if isinstance(value, str):
        return clean(value, secrets)
    if depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return {
            clean(str(key), secrets): MASK
            if _SECRET_KEY.search(str(key))
            else _redact(item, secrets, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact(item, secrets, depth - 1) for item in value]
    return clean(repr(value), secrets)


def clean(text: str, secrets: re.Pattern[str] | None = None) -> str:
    """Return ``text`` on one line, bounded, with what looks like a secret masked."""
    if len(text) > MAX_TEXT_CHARS:  # masked first: half a secret looks like none
        text = _masked(text[: 2 * MAX_TEXT_CHARS], secrets)[:MAX_TEXT_CHARS] + "..."
    else:
        text = _masked(text, secrets)
    return _CONTROL.sub(_escape, text)


def _masked(text: str, secrets: re.Pattern[str] | None) -> str:
    if secrets is not None:
        text = secrets.sub(MASK, text)
    return _SECRETS.sub(_mask, text)


def _mask(match: re.Match[str]) -> str:
    return (match["scheme"] or match["url"] or match["name"] or "") + MASK


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _NAMES.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def _chain(secrets: Iterable[str], instance: str | None) -> list[Processor]:
    known = sorted({re.escape(secret) for secret in secrets if secret}, key=len, reverse=True)
    pattern = re.compile("|".join(known)) if known else None

    def redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        traceback = event.pop("exception", None)
        redacted: EventDict = _redact(event, pattern, MAX_DEPTH)
        if traceback is not None:
            # Indented, so that no line of a message can pass for a line of ours.
            lines = [clean(line, pattern) for line in _last_lines(str(traceback), 4 * MAX_TEXT_CHARS)]
            redacted["exception"] = "\n".join("    " + line for line in lines)
        return redacted

    def name_instance(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["instance"] = instance
        return event

    return [
        *([name_instance] if instance is not None else []),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _keep_meta(redact_event),
    ]


def _last_lines(text: str, chars: int) -> list[str]:
    """Return the last lines of a text, so many characters at most; of its only line the end."""
    lines = text[-chars:].splitlines()
    return lines[1:] if len(text) > chars and len(lines) > 1 else lines


def _thin_out() -> Processor:
    sayings = {event: Seldom(seconds) for event, seconds in SELDOM.items()}

    def run(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        saying = sayings.get(event["event"])
        if saying is not None:
            count = saying.due()
            if not count:
                raise structlog.DropEvent
            event["count"] = count
        return event

    return run


def _keep_meta(process: Processor) -> Processor:
    """Run ``process`` on what the caller logged, not on the objects that structlog passes along."""

    def run(logger: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> EventDict:
        meta = {name: event.pop(name) for name in ("_record", "_from_structlog") if name in event}
        processed = process(logger, method, event)
        assert isinstance(processed, MutableMapping)
        processed.update(meta)
        return processed

    return run


def _renderer(format: Format, out: TextIO) -> Processor:  # noqa: A002
    if format == "console":
        return structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback, timestamp_key="time"
        )
    return structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event).decode())


def _tame_uvicorn(record: logging.LogRecord) -> bool:
    """Cut the query off uvicorn's URLs, and drop its traceback about a peer's invalid UTF-8."""
    if record.name.startswith("uvicorn"):
        if record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError):
            return False
        record.msg, record.args = _QUERY.sub("", record.getMessage()), None
    return True


class _Lines:
    """Writes lines to a stream; one that is closed or full loses them, and never breaks a turn."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = msg
