"""Races, odd flows and limits: what a second reading of the engine found."""

from typing import Any

from server.engine.actions import ActionContext
from tests.support.talk import Talk, replies

GUIDE = """
flow: guide
default: true
interruptible_by: [faq]
slots:
  what: {type: choice, options: [milk, bread]}
  count: {type: integer, validate: [{if: "value > 10 + variables.spare", say: "At most ten."}]}
variables: {spare: 0, secret: hidden}
steps:
  - {id: ask, collect: [what, count], ask: {what: "What?", count: "How many?"}}
  - {id: done, say: "Done."}
"""


def faq(*steps: str, variables: str = "{}") -> str:
    lines = "".join(f"  - {step}\n" for step in steps)
    intents = "triggers: {intents: [{name: hours, keywords: [open]}]}"
    return f"flow: faq\n{intents}\nvariables: {variables}\nsteps:\n{lines}"


async def test_two_digressions_never_share_an_effect_key() -> None:
    """Frame numbers are not reused: the second visit is another one to whoever sees the key."""
    keys: list[str] = []

    async def book(context: ActionContext, **_: Any) -> Any:
        keys.append(context.key)
        return 1

    side = faq("{id: b, action: lab.book, effect: write}")
    async with Talk(GUIDE, side, actions={"lab.book": book}) as talk:
        await talk.say("hello")
        for _ in range(2):
            await talk.say("open?")
            await talk.rest()
        assert len(keys) == len(set(keys)) == 2


async def test_a_digression_sees_its_own_variables() -> None:
    """What a rule of the interrupted flow looked at does not linger."""
    side = faq("{id: a, say: '${variables.hours}'}", variables="{hours: Nine to five.}")
    async with Talk(GUIDE, side) as talk:
        await talk.say("hello")
        assert replies(await talk.say("open? count 20")) == ["Nine to five.", "What?"]


async def test_a_digressions_variables_stay_its_own() -> None:
    """State shows the root frame's variables; so do the events, and so does ``expose``."""
    side = faq(
        "{id: s, set: {variables.secret: loud, variables.spare: 5}, expose: true}",
        "{id: a, say: '${variables.secret}'}",
        variables="{secret: null, spare: null}",
    )
    async with Talk(GUIDE, side) as talk:
        await talk.say("hello")
        before = await talk.events("variables.updated")
        said = await talk.say("open?")
        assert replies(said) == ["loud", "What?"]
        assert said.result is not None
        assert said.result["context_updates"]["variables"] == {}
        assert await talk.events("variables.updated") == before
        record = await talk.record()
        assert record.variables == {"spare": 0, "secret": "hidden"}
        assert record.execution is not None
        assert record.execution.exposed == ()
