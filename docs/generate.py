"""Writes the reference pages that are made from the code; with ``--check`` only tells whether they are current.

``python -m docs.generate`` writes ``docs/reference/errors.md`` from ``protocol/errors.py``, ``openapi.json`` from the
table of REST operations, ``asyncapi.json`` from the frames ``python-sdk.md`` from the SDK's docstrings, and
``javascript-sdk.md`` and ``sdk-parity.md`` from the types of the JavaScript SDK.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from docs.javascript import javascript_page, parity_page
from docs.sdk import sdk_page
from protocol import asyncapi
from protocol.errors import ERRORS, CloseCode, ErrorCode, may_reconnect
from server.gateway.rest.openapi import document
from server.version import version

HERE: Final = Path(__file__).resolve().parent

ERROR_MEANINGS: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.BAD_REQUEST: "A field has a value that it may not have, or one that is required is missing. `field` names it.",
    ErrorCode.INVALID_FRAME: "What came is not a frame: not JSON, nested deeper than 32, a number beyond ±2^53, broken text.",
    ErrorCode.UNKNOWN_TYPE: "The frame's `type` is none that a client may send.",
    ErrorCode.UNAUTHORIZED: "There is no valid credential: missing, forged, for another issuer or audience, without a tenant.",
    ErrorCode.TOKEN_EXPIRED: "The token was valid once. Get a new one and send it in `auth`, or reconnect with it.",
    ErrorCode.PERMISSION_DENIED: "The credential is valid but lacks the scope, or names another user or tenant.",
    ErrorCode.TENANT_INACTIVE: "The organisation has been switched off.",
    ErrorCode.ORIGIN_NOT_ALLOWED: "The page's origin (scheme, host, port) is not in `PARLEY_ORIGINS`, nor one of the key's.",
    ErrorCode.POLICY_VIOLATION: "A policy of the tenant or of the flow forbids it.",
    ErrorCode.CONVERSATION_NOT_FOUND: "There is no such conversation, or it is none of yours; the answer is the same.",
    ErrorCode.FLOW_NOT_FOUND: "There is no flow of this id, or none that fits and no default flow.",
    ErrorCode.EXECUTION_NOT_FOUND: "There is no such execution, or it is none of yours.",
    ErrorCode.PENDING_NOT_FOUND: "There is no such open question in this conversation.",
    ErrorCode.NOT_FOUND: "There is nothing at this address.",
    ErrorCode.WRONG_STATE: "The conversation is in a state in which this cannot be done; `details` says in which.",
    ErrorCode.PENDING_RESOLVED: "The question has been decided; `details` says by whom and how.",
    ErrorCode.PENDING_EXPIRED: "The question's deadline is over.",
    ErrorCode.CONVERSATION_BUSY: "The conversation is at work and the command said not to wait (`on_busy: reject`).",
    ErrorCode.PAYLOAD_TOO_LARGE: "A request's body is larger than the limit.",
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: "A request's body is not JSON.",
    ErrorCode.FLOW_INVALID: "The flow does not compile; `details` has file, line, column and what would be right.",
    ErrorCode.MISSING_ANSWERS: "Not all required questions were answered; `details` names them.",
    ErrorCode.IDEMPOTENCY_CONFLICT: "This idempotency key was used before, with another body. A new command needs a new key.",
    ErrorCode.RATE_LIMITED: "Too many frames or requests. Try again after `retry_after_ms`.",
    ErrorCode.INBOX_FULL: "32 commands (or 256 KiB) wait in this conversation already.",
    ErrorCode.INTERNAL: "The server made a mistake; it has logged it under the request's id.",
    ErrorCode.OVERLOADED: "The server has more to do than it can; nothing happened.",
    ErrorCode.STORE_UNAVAILABLE: "The store does not answer; nothing was accepted. The connection stays open.",
    ErrorCode.DEPENDENCY_UNAVAILABLE: "Something the server calls does not answer.",
    ErrorCode.STEP_FAILED: "A step failed and its flow has no `on_error` for it; `details` names the step and the reason.",
    ErrorCode.CANCELLED: "A `cancel`, `reset` or deletion ended the turn.",
    ErrorCode.LOOP_DETECTED: "The flow went through 250 steps without waiting; `details` shows the loop.",
    ErrorCode.EXPIRED: "The flow or step had no time left.",
}

CLOSE_MEANINGS: Final[Mapping[CloseCode, str]] = {
    CloseCode.NORMAL: "The client is done.",
    CloseCode.GOING_AWAY: "One of the two goes away.",
    CloseCode.PROTOCOL_ERROR: "The WebSocket protocol was broken.",
    CloseCode.UNSUPPORTED_DATA: "A binary frame; there are none in this protocol.",
    CloseCode.INVALID_UTF8: "A text frame that is not UTF-8.",
    CloseCode.MESSAGE_TOO_BIG: "A frame above `PARLEY_MAX_FRAME_BYTES`.",
    CloseCode.SERVER_ERROR: "The server made a mistake.",
    CloseCode.SHUTDOWN: "The server is being stopped or replaced.",
    CloseCode.TOKEN_EXPIRED: "The token ran out and no fresh one came in time. Reconnect with a fresh one.",
    CloseCode.SLOW_CONSUMER: "The client does not read: its outbox was full, or a write took too long.",
    CloseCode.NO_PONG: "Nothing was heard from the client, not even a `pong`.",
    CloseCode.STATE_LOST: "What the client knows is no longer true: drop the cursor, then reconnect.",
    CloseCode.RATE_LIMITED: "Frames went on coming far above the limit.",
    CloseCode.STORE_UNAVAILABLE: "The store does not answer.",
    CloseCode.UNAUTHORIZED: "`hello` was refused: no valid credential.",
    CloseCode.BAD_REQUEST: "The first frame was not `hello`, or ten frames in a minute could not be read.",
    CloseCode.NO_HELLO: "No `hello` came within 10 seconds.",
    CloseCode.PERMISSION_DENIED: "The tenant or the conversation may not be used with this credential.",
    CloseCode.CONNECTION_LIMIT: "Too many connections, of this principal or in all.",
    CloseCode.UNSUPPORTED_VERSION: "The client does not speak `parley.v1`.",
    CloseCode.ORIGIN_NOT_ALLOWED: "The page's origin is not in `PARLEY_ORIGINS`, nor one of the key's.",
}


def errors_page() -> str:
    """Return ``reference/errors.md``."""
    lines = [
        "<!-- Written by docs/generate.py from protocol/errors.py: change those, then run it again. -->",
        "",
        "# Errors and close codes",
        "",
        "A refused frame is answered by `error`, a refused request by the HTTP status below; both carry the same object:",
        "`code`, `message` (a sentence for the person who made the mistake), `temporary` (whether the very same thing may",
        "succeed later), `retry_after_ms`, `field`, `details`, `suggestion` and `docs` (a link to this page). What is",
        "refused has changed nothing. The codes without a status occur in `turn.failed` only.",
        "",
    ]
    for code, spec in ERRORS.items():
        status = f"HTTP {spec.http_status}" if spec.http_status else "in `turn.failed`"
        lines += [
            f"### `{code.value}`",
            "",
            f"{status}{', temporary' if spec.temporary else ''}.",
            ERROR_MEANINGS[code],
            "",
        ]
    lines += [
        "## Close codes",
        "",
        "The range is the policy: after 4000-4499 a client reconnects, after 4500-4999 it does not. Of the standard codes",
        "1000, 1002, 1003, 1007, 1008 and 1009 are final; after every other one, 1005 and 1006 included, it reconnects.",
        "",
        "| code | reconnect | meaning |",
        "|---|---|---|",
    ]
    lines += [
        f"| {int(code)} | {'yes' if may_reconnect(code) else 'no'} | {CLOSE_MEANINGS[code]} |"
        for code in CloseCode
    ]
    return "\n".join(lines) + "\n"


def openapi() -> str:
    """Return ``reference/openapi.json``."""
    return json.dumps(document(version()), indent=2, ensure_ascii=False) + "\n"


PAGES: Final[Mapping[Path, Callable[[], str]]] = {
    HERE / "reference" / "errors.md": errors_page,
    HERE / "reference" / "python-sdk.md": sdk_page,
    HERE / "reference" / "javascript-sdk.md": javascript_page,
    HERE / "reference" / "sdk-parity.md": parity_page,
    HERE / "reference" / "openapi.json": openapi,
    HERE / "reference" / "asyncapi.json": lambda: asyncapi.render(version()),
}


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description="Write the generated reference pages.")
    parser.add_argument("--check", action="store_true", help="only tell whether they are current")
    check = parser.parse_args().check
    stale = [path for path, page in PAGES.items() if not path.exists() or path.read_text() != page()]
    for path in stale:
        if check:
            sys.stderr.write(f"{path.relative_to(HERE.parent)} is not current: run python -m docs.generate\n")
        else:
            path.write_text(PAGES[path]())
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
