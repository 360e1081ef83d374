"""The MongoDB store, telling ``failpoints`` of each command before it is sent and after its reply.

So a server dies between the compare-and-set that is the commit and the log's own write behind it:
``mongo.findAndModify.after``, ``mongo.insert.before``, ...
"""

from collections.abc import Callable

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from storage.models import TimeMs
from storage.mongo import MongoStore
from tests.support.failpoints import reach


class Commands(CommandListener):
    """Reaches ``mongo.COMMAND.before`` and ``mongo.COMMAND.after``."""

    def started(self, event: CommandStartedEvent) -> None:
        reach(f"mongo.{event.command_name}.before")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        reach(f"mongo.{event.command_name}.after")

    def failed(self, event: CommandFailedEvent) -> None:
        return


def open_traced(url: str, clock: Callable[[], TimeMs] | None) -> MongoStore:
    """Return the store of a URL, not yet opened."""
    return MongoStore(url, clock=clock, options={"event_listeners": [Commands()]})
