"""Client for Parley, the realtime conversation server (protocol ``parley.v1``).

``Parley`` connects, and ``AsyncParley`` does so in asyncio; both have the same names. ``conversation`` gives
a ``Conversation`` (``AsyncConversation``), ``start`` and ``execution`` a ``SyncExecution``
(``AsyncExecution``). Events are in ``parley_client.events``, errors in ``parley_client.errors``, records
(``Message``, ``Turn``, ...) in ``parley_client.records``; the errors, the records and the clients are
importable from here too.
"""

from . import errors, events, records
from ._async import AsyncParley
from ._clock import Clock, Timer
from ._connection import ConnectionEvent
from ._conversation import AsyncConversation, TurnStream
from ._execution import AsyncExecution
from ._stream import Stream
from ._sync import Conversation, Parley, SyncExecution
from ._sync_stream import SyncStream, SyncTurnStream
from ._wire import VERSION
from .errors import *  # noqa: F403 - the whole tree, listed in errors.__all__
from .events import AnyEvent, Event
from .records import *  # noqa: F403 - listed in records.__all__

__version__ = VERSION
__all__ = [
    "AnyEvent",
    "AsyncConversation",
    "AsyncExecution",
    "AsyncParley",
    "Clock",
    "ConnectionEvent",
    "Conversation",
    "Event",
    "Parley",
    "Stream",
    "SyncExecution",
    "SyncStream",
    "SyncTurnStream",
    "Timer",
    "TurnStream",
    "__version__",
    "errors",
    "events",
    "records",
]
__all__ += errors.__all__
__all__ += records.__all__
