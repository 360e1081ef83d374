"""Actions that change the world outside: each writes down what it does, before and after.

``PARLEY_TEST_EFFECTS`` names the file. ``look`` reads, ``charge`` writes, ``note`` is idempotent.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from server.engine.actions import ActionContext
from tests.support.failpoints import reach
from tests.support.history import EffectLine, EffectLog

FLOW: Final = """
flow: shop
default: true
slots:
  item: {type: choice, options: [tea, coffee, milk]}
  count: {type: integer}
variables: {price: null, receipt: null, noted: null}
steps:
  - id: ask
    collect: [item, count]
    ask: {item: "Tea, coffee or milk?", count: "How many?"}
  - id: look
    action: till.look
    effect: read
    with: {item: "${slots.item}"}
    retry: {max: 3, delay: 10ms, on: [unavailable]}
    save: variables.price
    on_error: sorry
  - id: charge
    action: till.charge
    effect: write
    with: {item: "${slots.item}"}
    save: variables.receipt
    expose: true
    on_error: sorry
  - id: note
    action: till.note
    effect: idempotent
    save: variables.noted
    on_error: sorry
  - {id: thanks, say: "Here is your ${slots.item}.", goto: over}
  - {id: sorry, say: "That went wrong."}
  - {id: over, end: completed}
"""

DURATIONS_MS: Final = {"look": 2, "charge": 8, "note": 4}


async def look(context: ActionContext, item: str) -> Mapping[str, Any]:
    """Look a price up; sometimes the first attempt finds nobody there."""
    if context.attempt == 1 and context.key.encode()[0] % 5 == 0:
        raise ConnectionError("nobody answers")
    await _do(context, "look", "read", item=item)
    return {"item": item, "price": len(item)}


async def charge(context: ActionContext, item: str) -> Mapping[str, Any]:
    """Take the money. Nobody may do this twice."""
    await _do(context, "charge", "write", item=item)
    return {"key": context.key, "item": item}


async def note(context: ActionContext) -> str:
    """Write it into the books; writing it twice under one key changes nothing."""
    await _do(context, "note", "idempotent")
    return context.key


async def _do(
    context: ActionContext, name: str, effect: Literal["read", "idempotent", "write"], **arguments: Any
) -> None:
    log = EffectLog(Path(os.environ["PARLEY_TEST_EFFECTS"]))
    place = f"till.{name}"
    about = (place, effect, context.key, context.attempt, context.conversation_id, os.getpid(), arguments)
    reach(f"{place}.before")
    log.append(EffectLine("before", *about))
    reach(f"{place}.between")
    await asyncio.sleep(DURATIONS_MS[name] / 1000)
    log.append(EffectLine("after", *about))
    reach(f"{place}.after")
