"""What stands for the actions of a test, and what is noted of their calls."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from server.engine.actions import ActionContext, ActionFailed, Actions, Failure
from server.testing.clock import VirtualClock
from server.testing.expectations import Call
from server.testing.suite import Stub


class StubbedActions:
    """The actions of one test: stubs, and the real ones where a stub says so.

    Args:
        names: all actions that the flows call.
        stubs: in the order in which they answer.
        clock: what ``after`` waits on.
        real: the project's own actions, asked for at the first call of one.
    """

    def __init__(
        self,
        names: Iterable[str],
        stubs: Mapping[str, tuple[Stub, ...]],
        clock: VirtualClock,
        real: Callable[[], Actions],
    ) -> None:
        self.calls: list[Call] = []
        self.surprises: list[Call] = []
        """Calls that no stub answers; each is a failure of the test."""
        self.working = 0
        """How many real actions run now: they take real time."""
        self._stubs = stubs
        self._clock = clock
        self._real = real
        self._used: dict[int, int] = {}
        self.actions = Actions({name: self._function(name) for name in names})

    def _function(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(context: ActionContext, **arguments: Any) -> Any:
            made = Call(name, arguments)
            self.calls.append(made)
            stub = self._answering(made)
            if stub is None:
                self.surprises.append(made)
                raise ActionFailed(f'No stub of the test answers this call of "{name}".')
            if stub.after_ms:
                await self._clock.sleep(stub.after_ms / 1000)
            if stub.real:
                return await self._call_real(made, context)
            if stub.fails is not None:
                raise ActionFailed(stub.message, kind=stub.fails, unknown=stub.unknown)
            return stub.returns

        return call

    def _answering(self, call: Call) -> Stub | None:
        for stub in self._stubs.get(call.action, ()):
            used = self._used.get(id(stub), 0)
            if stub.times is not None and used >= stub.times:
                continue
            if stub.arguments is None or stub.arguments.differ(call.arguments) is None:
                self._used[id(stub)] = used + 1
                return stub
        return None

    async def _call_real(self, call: Call, context: ActionContext) -> Any:
        self.working += 1
        try:
            value = await self._real().run(call.action, context, call.arguments)
        finally:
            self.working -= 1
        if isinstance(value, Failure):
            raise ActionFailed(value.message, kind=value.kind, unknown=value.unknown)
        return value


async def breathe(working: Callable[[], bool]) -> None:
    """Let the event loop go round once; where real work is under way, leave it some time."""
    await asyncio.sleep(0.001 if working() else 0)
