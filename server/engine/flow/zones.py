"""Clocks of a timezone: what they show at a moment, and at which moments they show a time."""

import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


@lru_cache(maxsize=512)
def zone_of(timezone: str | None) -> datetime.tzinfo:
    """Return the timezone of this name; UTC where there is none or it is unknown."""
    if not timezone:
        return datetime.UTC
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return datetime.UTC


def local_now(now_ms: int, timezone: str | None) -> datetime.datetime:
    """Return the moment ``now_ms`` as the timezone's clocks show it, to the second."""
    return datetime.datetime.fromtimestamp(now_ms // 1000, zone_of(timezone))


def local_date(now_ms: int, timezone: str | None) -> datetime.date:
    """Return the date at ``now_ms`` in the timezone; in UTC where it is unknown."""
    return local_now(now_ms, timezone).date()


def moments(shown: datetime.datetime, zone: datetime.tzinfo) -> tuple[datetime.datetime, ...]:
    """Return the moments at which the zone's clocks show ``shown`` (naive), earliest first.

    One as a rule; none where the clocks skip it in spring, two where they repeat it in autumn.
    """
    found: list[datetime.datetime] = []
    for fold in (0, 1):
        moment = shown.replace(tzinfo=zone, fold=fold)
        again = moment.astimezone(datetime.UTC).astimezone(zone)
        if again.replace(tzinfo=None) == shown and moment.utcoffset() not in [m.utcoffset() for m in found]:
            found.append(moment)
    return tuple(found)


def iso(moment: datetime.datetime) -> str:
    """Return an aware moment as RFC 3339 with its offset: ``2026-11-21T14:00:00+01:00``, ``Z`` for UTC."""
    offset = moment.utcoffset() or datetime.timedelta()
    if offset.total_seconds() % 60:  # local mean times of long ago; RFC 3339 has no seconds in offsets
        moment = moment.astimezone(datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
