"""What lists of executions and conversations are filtered by."""

from collections.abc import Mapping
from typing import Final, get_args

from protocol.errors import ErrorCode, Refused
from server.gateway.rest.api import text_query
from server.gateway.rest.pages import read_time
from storage.listing import IDLE, ExecutionFilter
from storage.models import ExecutionStatus

FILTERS: Final = frozenset({"status", "flow_id", "user_id", "project_id", "since", "until"})
EXECUTION_STATUSES: Final[tuple[str, ...]] = get_args(ExecutionStatus)
STATUSES: Final = (IDLE, *EXECUTION_STATUSES)
"""What a conversation may be: as its execution, or without one."""


def read_filter(query: Mapping[str, str], statuses: tuple[str, ...]) -> ExecutionFilter:
    """Return what is asked for. Raises Refused."""
    return ExecutionFilter(
        status=_status(query.get("status"), statuses),
        flow_id=text_query(query, "flow_id"),
        user_id=text_query(query, "user_id"),
        project_id=text_query(query, "project_id"),
        since=read_time(query, "since"),
        until=read_time(query, "until"),
    )


def _status(text: str | None, statuses: tuple[str, ...]) -> str | None:
    if text is None or text in statuses:
        return text
    raise Refused(
        ErrorCode.BAD_REQUEST,
        "status is none that there can be here.",
        field="status",
        suggestion=f"One of: {', '.join(statuses)}.",
    )
