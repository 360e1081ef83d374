"""Blocking calls beside the event loop, each in a daemon thread of its own.

The loop's own executor would make the end of the loop, and of the interpreter, wait for what cannot be
hurried; and its few threads serve name lookups too.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T], abort: Callable[[], None] | None = None) -> T:
    """Return what the function returns. A caller that is cancelled calls ``abort`` and does not wait."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type] # with no error there is a result
        else:
            done.set_exception(error)

    def run() -> None:
        result, failed = None, None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has ended; nobody waits
            loop.call_soon_threadsafe(tell, result, failed)

    threading.Thread(target=run, name="parley-client-call", daemon=True).start()
    try:
        return await done
    except asyncio.CancelledError:
        if abort is not None:
            abort()
        raise


Token = str | Callable[[], str | Awaitable[str]]


def unblocked(token: Token | None) -> Token | None:
    """Return a token's source that may take its time without holding up the loop that asks."""
    if token is None or isinstance(token, str):
        return token

    async def ask() -> str:
        found = await in_thread(token)
        return found if isinstance(found, str) else await found

    return ask
