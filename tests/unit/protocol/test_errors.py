"""The error and close tables are those of the protocol page."""

import pytest

from protocol.errors import ERRORS, CloseCode, ErrorCode, InvalidFrame, ParleyError, Refused, may_reconnect

# As the page has them; * is temporary.
PAGE = """
400 bad_request invalid_frame unknown_type
401 unauthorized token_expired
403 permission_denied tenant_inactive origin_not_allowed policy_violation
404 conversation_not_found flow_not_found execution_not_found pending_not_found not_found
409 wrong_state pending_resolved pending_expired conversation_busy*
413 payload_too_large
415 unsupported_media_type
422 flow_invalid missing_answers idempotency_conflict
429 rate_limited* inbox_full*
500 internal*
503 overloaded* store_unavailable* dependency_unavailable*
- step_failed cancelled loop_detected expired
"""


def test_the_error_table_is_the_page() -> None:
    table = {}
    for line in PAGE.split("\n"):
        status, *codes = line.split() or [
            "",
        ]
        for code in codes:
            table[code.rstrip("*")] = (None if status == "-" else int(status), code.endswith("*"))
    assert {code.value: tuple(ERRORS[code]) for code in ErrorCode} == table


def test_a_refusal_on_the_wire_has_all_eight_fields() -> None:
    wire = Refused(ErrorCode.RATE_LIMITED, "Slow down.", retry_after_ms=5).to_wire()
    assert wire == {
        "code": "rate_limited",
        "message": "Slow down.",
        "temporary": True,
        "retry_after_ms": 5,
        "field": None,
        "details": None,
        "suggestion": None,
        "docs": "docs/reference/errors.md#rate_limited",
    }


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_status_for_rest(code: ErrorCode) -> None:
    assert 400 <= Refused(code, "no").http_status <= 599


def test_an_invalid_frame_is_a_refusal_that_remembers_the_frame() -> None:
    error = InvalidFrame("no", field="a.b", frame_id="7")
    assert isinstance(error, Refused)
    assert isinstance(error, ParleyError)
    assert (error.code, error.frame_id, error.field) == (ErrorCode.INVALID_FRAME, "7", "a.b")


def test_the_range_is_the_policy() -> None:
    assert all(may_reconnect(code) for code in range(4000, 4500))
    assert not any(may_reconnect(code) for code in range(4500, 5000))


def test_our_own_close_codes_are_in_the_range_of_their_policy() -> None:
    final = {4500, 4501, 4502, 4503, 4504, 4506, 4507}
    ours = {int(code) for code in CloseCode if code >= 4000}
    assert {code for code in ours if not may_reconnect(code)} == final
