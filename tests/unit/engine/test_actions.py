"""Actions that misbehave: whatever an author's function raises fails its step, and nothing else."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from server.engine.actions import ActionContext, ActionFailed, Actions, ActionsInvalid, Failure
from tests.support.talk import Talk

FLOW = """
flow: act
default: true
steps:
  - {id: call, action: lab.run, effect: read, on_error: sorry}
  - {id: done, end: completed}
  - {id: sorry, say: "Sorry."}
"""


class Stop(BaseException):
    """What some libraries stop their own work with."""


async def _report(text: str) -> None:
    raise AssertionError(text)


CONTEXT = ActionContext(
    key="k",
    tenant_id="t",
    user_id="u1",
    conversation_id="c1",
    execution_id="e",
    step_id="s",
    attempt=1,
    deadline=0,
    correlation_id=None,
    slots={},
    variables={},
    config={},
    report=_report,
    log=logging.LoggerAdapter(logging.getLogger("parley.actions")),
)


async def run(function: Callable[..., Any]) -> Any:
    """Run one action by itself."""
    return await asyncio.wait_for(Actions({"lab.run": function}).run("lab.run", CONTEXT, {}), 30)


@pytest.mark.parametrize(
    "error", [StopIteration, Stop, SystemExit, KeyboardInterrupt, asyncio.CancelledError]
)
async def test_whatever_a_function_in_a_thread_raises_is_its_failure(error: type[BaseException]) -> None:
    """``next`` of what is empty is the likeliest: a future does not take its StopIteration."""

    def fail(context: ActionContext) -> None:
        raise error

    assert await run(fail) == Failure("error", 'The action "lab.run" failed.')


@pytest.mark.parametrize("kind", ["interrupted", "odd", None, []])
async def test_a_kind_that_is_not_an_actions_to_tell_is_an_error(kind: Any) -> None:
    async def fail(context: ActionContext) -> None:
        raise ActionFailed("No.", kind=kind)

    async with Talk(FLOW, actions={"lab.run": fail}) as talk:
        await talk.say("go")
        await talk.rest()
        assert (await talk.texts(), (await talk.record()).status) == (["Sorry."], "completed")


class Declined(ActionFailed):
    """An author's own, which is made without what it is one of."""

    def __init__(self, code: int) -> None:
        self.code = code


async def test_a_failure_of_an_authors_own_making_is_one() -> None:
    def fail(context: ActionContext) -> None:
        raise Declined(51)

    assert await run(fail) == Failure("error", 'The action "lab.run" failed.')


async def test_what_is_no_exception_fails_the_step_at_once() -> None:
    """It is not left to the end of the lease, nor tried again."""
    calls = 0

    async def fail(context: ActionContext) -> None:
        nonlocal calls
        calls += 1
        raise Stop

    async with Talk(FLOW, actions={"lab.run": fail}) as talk:
        await talk.say("go")
        await talk.rest()
        assert await talk.texts() == ["Sorry."]
    assert calls == 1


SORTING = """
flow: sorting
default: true
slots: {names: {type: list, items: text}}
variables: {seen: [3, 1, 2], more: {a: {b: 1}}}
steps:
  - {id: ask, collect: names}
  - {id: call, action: lab.run, effect: read, with: {seen: "${variables.seen}", more: "${variables.more}"}}
  - {id: done, say: "${variables.seen} ${variables.more} ${slots.names}"}
"""


async def test_what_an_action_does_to_what_it_is_given_is_its_own_affair() -> None:
    """Neither its conversation nor those that begin with the same flow have it otherwise."""

    async def run(context: ActionContext, seen: Any, more: Any) -> None:
        seen.sort()
        more["a"]["b"] = context.user_id
        for mine in (context.slots, context.variables):
            assert isinstance(mine, dict)
            mine.clear()
        context.config["shops"].clear()

    async with Talk(SORTING, actions={"lab.run": run}, config={"shops": ["here"]}) as talk:
        for conversation in ("c1", "c2"):
            await talk.say("go", to=conversation)
            await talk.say("ann, bob", to=conversation)
            await talk.rest()
            record = await talk.record(conversation)
            assert record.slots == {"names": ["ann", "bob"]}
            assert record.variables == {"seen": [3, 1, 2], "more": {"a": {"b": 1}}}
        assert await talk.texts() == ["Names?", '[3, 1, 2] {"a": {"b": 1}} ["ann", "bob"]']
        assert talk.catalog.config() == {"shops": ["here"]}


async def test_functions_that_hang_take_no_thread_from_the_event_loop() -> None:
    """The loop's own threads look up hosts: with them gone, no store or bus could be reached again."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    hangs, go = threading.Event(), threading.Event()

    def hang(context: ActionContext) -> str:
        hangs.set()
        assert go.wait(60)
        return "done"

    hanging = asyncio.create_task(run(hang))
    try:
        assert await asyncio.wait_for(asyncio.to_thread(hangs.wait, 30), 30)
    finally:
        go.set()
    assert await hanging == "done"


def test_two_actions_of_one_name_are_refused(tmp_path: Path) -> None:
    """Flows call an action by its module's last name: one of the two would be run for the other."""
    for package in ("north_of_here", "south_of_here"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "shop.py").write_text("def look(context): ...\n")
    modules = ["north_of_here.shop", "south_of_here.shop"]
    with pytest.raises(ActionsInvalid, match=r'"shop.look", in north_of_here.shop and in south_of_here.shop'):
        Actions.load(modules, tmp_path)
    assert Actions.load([modules[0]] * 2, tmp_path).names == {"shop.look"}
