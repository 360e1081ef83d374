"""What an error of MongoDB's driver says of a write: that nothing happened, or that nobody knows."""

from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    NetworkTimeout,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)

from storage.base import CommitOutcome, CommitUnknown, StoreUnavailable
from storage.mongo import commits
from storage.mongo.documents import NOTHING
from storage.mongo.failures import was_sent
from tests.support.records import NOW, conversation, next_commit


@pytest.mark.parametrize(
    "error", [AutoReconnect("lost"), NetworkTimeout("late"), WaitQueueTimeoutError("full")]
)
def test_what_may_have_been_a_second_attempt_may_have_been_sent(error: PyMongoError) -> None:
    """Of a write that the driver repeats, a full pool tells of the second attempt only."""
    assert was_sent(error)


def test_without_a_server_nothing_was_sent() -> None:
    assert not was_sent(ServerSelectionTimeoutError("nobody"))


class Refusing:
    """A database whose server answers with an error for each statement."""

    def __init__(self, *codes: int) -> None:
        self.conversations = SimpleNamespace(bulk_write=self._bulk_write)
        self._codes = codes

    async def _bulk_write(self, requests: Any, *, ordered: bool) -> Any:
        errors = [{"index": n, "code": code} for n, code in enumerate(self._codes)]
        raise BulkWriteError({"writeErrors": errors, "writeConcernErrors": [], "nMatched": 0})


async def test_a_shard_that_was_lost_sight_of_leaves_its_own_commits_unknown() -> None:
    """A router answers for each statement: 6 is HostUnreachable, 121 a refused document, 11000 a race."""
    group = [commits.Change(next_commit(conversation(id_)), b"{}", NOTHING, ()) for id_ in "abc"]
    lost, refused, raced = await commits.write(Refusing(6, 121, 11000), group, NOW)
    assert type(lost) is CommitUnknown
    assert type(refused) is StoreUnavailable
    assert raced is CommitOutcome.CONFLICT
