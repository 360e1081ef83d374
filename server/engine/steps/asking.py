"""What ``accept`` and ``clarify`` have in common: whom they ask, until when, and what happens then."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from server.auth.roles import SCOPES
from server.engine.draft import Draft, StepFailure
from server.engine.flow.expressions import Expression
from server.engine.flow.node import Node, Template, did_you_mean

DEFAULT_SCOPE: Final = "acceptance:decide"
MAX_DEADLINE_MS: Final = 366 * 24 * 3_600_000
MAX_QUORUM: Final = 16


@dataclass(frozen=True, slots=True)
class Deadline:
    """How long a request stays open (None: for ever), and what follows then.

    ``target`` is the step it goes to; without one, ``accepted`` counts as decided.
    """

    after_ms: int | None = None
    target: str | None = None
    accepted: bool | None = None

    def at(self, now: int) -> int | None:
        """Return when a request that is made now is due."""
        return None if self.after_ms is None else now + self.after_ms


@dataclass(frozen=True, slots=True)
class By:
    """Who decides: ``user``, or whoever has ``scope``; ``quorum`` different ones have to accept."""

    scope: str | None
    user: Template | None
    quorum: int = 1

    def value(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Return the pending record's ``by``. Raises StepFailure where the user has no name."""
        user = self.user.render(context).strip() if self.user is not None else None
        if user == "":
            raise StepFailure("Nobody is named who could decide.")
        return {"scope": self.scope, "user": user, "quorum": self.quorum}


def decider(draft: Draft, by: By | None) -> dict[str, Any] | None:
    """Return the pending record's ``by``: None is the owner; where there is none, whoever has the scope."""
    if by is not None:
        return by.value(draft.context())
    if draft.before.user_id is None:
        return {"scope": DEFAULT_SCOPE, "user": None, "quorum": 1}
    return None


def parse_by(node: Node) -> By | None:
    """Read ``by: {scope, user, quorum}``."""
    inner = node.mapping("by")
    if inner is None:
        return None
    user = inner.template("user") if inner.has("user") else None
    default = None if user is not None else DEFAULT_SCOPE
    scope = inner.text("scope", default)
    if scope is not None and scope not in SCOPES:  # nobody could ever decide
        hint = did_you_mean(scope, SCOPES)
        inner.problem(
            "unknown-option", f'there is no scope "{scope[:60]}" that a token could have', "scope", hint
        )
    quorum = inner.integer("quorum", 1, MAX_QUORUM, 1)
    if quorum > 1 and scope is None:
        inner.problem("out-of-range", "one user cannot be several; a quorum needs a scope", "quorum")
    inner.finish()
    return By(scope, user, quorum)


def parse_deadline(node: Node, *, decides: bool) -> Deadline:
    """Read ``deadline`` and ``on_timeout``; ``decides``: it may be ``{decide: accept|reject}``, too."""
    after_ms = node.duration("deadline", MAX_DEADLINE_MS)
    if node.has("deadline") != node.has("on_timeout"):
        there, missing = ("deadline", "on_timeout") if node.has("deadline") else ("on_timeout", "deadline")
        node.problem("missing-field", f'"{there}" needs "{missing}"', there)
    if not (decides and node.is_mapping("on_timeout")):
        return Deadline(after_ms, target=node.target("on_timeout"))
    inner = node.mapping("on_timeout")
    if inner is None:
        return Deadline(after_ms)
    chosen = inner.choice("decide", ("accept", "reject"), "reject", required=True)
    inner.finish()
    return Deadline(after_ms, accepted=chosen == "accept")


def expressions_of(by: By | None) -> tuple[Expression, ...]:
    """Return the expressions in whom a step asks."""
    return by.user.expressions if by is not None and by.user is not None else ()
