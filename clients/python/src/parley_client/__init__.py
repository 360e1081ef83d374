"""Client for Parley, the realtime conversation server (protocol ``parley.v1``).

``AsyncParley`` connects; ``AsyncParley.conversation`` gives an ``AsyncConversation``, ``AsyncParley.start``
and ``execution`` an ``AsyncExecution``. Events are in
``parley_client.events``, errors in ``parley_client.errors``, records (``Message``, ``Turn``, ...) in
``parley_client.records``; the errors, the records and the client are importable from here too.
"""

from . import errors, events, records
from ._async import AsyncParley
from ._clock import Clock, Timer
from ._connection import ConnectionEvent
from ._conversation import AsyncConversation, TurnStream
from ._execution import AsyncExecution
from ._stream import Stream
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
    "Event",
    "Stream",
    "Timer",
    "TurnStream",
    "__version__",
    "errors",
    "events",
    "records",
]
__all__ += errors.__all__
__all__ += records.__all__
