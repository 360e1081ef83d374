"""How large things are when stored: the length of the form that ``codec.py`` writes."""

from storage.codec import encode_events, encode_json, encode_record, event_to_row
from storage.models import Conversation, Event, EventBatch, Json


def json_bytes(value: Json) -> int:
    """Return the length of ``value`` as JSON, in bytes. Raises TypeError for what is not JSON."""
    return len(encode_json(value))


def event_bytes(event: Event) -> int:
    """Return the length of one stored event, in bytes."""
    return len(encode_json(event_to_row(event)))


def batch_bytes(batch: EventBatch) -> int:
    """Return the length of a batch's stored events, in bytes."""
    return len(encode_events(batch))


def record_bytes(record: Conversation) -> int:
    """Return the length of a stored record, in bytes."""
    return len(encode_record(record))
