"""Items of lists, of records that can be read."""

from collections.abc import Callable
from typing import Final

import structlog

from storage.base import StoreTooNew
from storage.listing import Listed, ListPlace
from storage.models import Conversation

REASON_MAX_CHARS: Final = 200

_log = structlog.get_logger(__name__)


def listed(tenant_id: str, place: ListPlace, read: Callable[[], Conversation]) -> Listed | None:
    """Return an item of a list; None, and a line in the log, where its record cannot be read.

    One record that a fault has changed, or a later release has written, keeps nobody from all the others.
    """
    try:
        return Listed(place, read())
    except (StoreTooNew, LookupError, TypeError, ValueError, AttributeError) as error:
        _log.error(
            "record_unreadable",
            tenant_id=tenant_id,
            conversation_id=place.conversation_id,
            reason=f"{type(error).__name__}: {error}"[:REASON_MAX_CHARS],
        )
        return None
