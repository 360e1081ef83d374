"""Which indexes are Parley's, told from what MongoDB says of them."""

from types import SimpleNamespace
from typing import Any

import pytest

from storage.mongo.schema import COLLECTIONS, INDEXES, compare


def database(**conversations: dict[str, Any]) -> Any:
    """Return a database with these indexes of its collection ``conversations``, and with no others."""

    async def found() -> dict[str, Any]:
        return conversations

    async def nothing() -> dict[str, Any]:
        return {}

    each = {name: SimpleNamespace(index_information=nothing) for name in COLLECTIONS}
    return SimpleNamespace(**{**each, "conversations": SimpleNamespace(index_information=found)})


async def test_directions_that_come_as_floats_are_directions() -> None:
    """A shell that knows numbers of one kind only makes such."""
    missing, other = await compare(database(wake={"key": [("wake_at", 1.0)], "sparse": True}))
    assert len(missing) == len(INDEXES) - 1
    assert other == []


@pytest.mark.parametrize("kind", ["hashed", "text", -1])
async def test_an_index_of_another_kind_is_another_one(kind: Any) -> None:
    _, other = await compare(database(wake={"key": [("wake_at", kind)]}))
    assert [str(index) for index in other] == ["conversations.wake"]
