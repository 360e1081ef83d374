"""``accept``: stops until a person accepts or rejects what the flow is about to do."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from server.engine.draft import Draft
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import Node, Template
from server.engine.folding.ahead import Scratch, digest_ahead
from server.engine.folding.requests import open_request, request_of
from server.engine.steps.asking import By, Deadline, decider, expressions_of, parse_by, parse_deadline
from server.engine.steps.base import Goto, Next, Outcome, Wait
from storage.models import Pending


@dataclass(frozen=True, slots=True)
class Accept:
    """``accept: {title, prompt, by, editable, deadline, on_timeout, digest}``, ``accepted`` and ``rejected``.

    What is accepted is the first effect behind ``accepted``: its digest is shown, and what runs must
    equal it. ``digest: false`` leaves it open what follows.
    """

    keyword: ClassVar[str] = "accept"
    common: StepCommon
    title: Template
    prompt: Template | None
    by: By | None
    editable: tuple[str, ...]
    deadline: Deadline
    binds: bool
    accepted: str | None
    rejected: str | None

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read what is asked, of whom, until when, and where the answers lead."""
        inner = node.mapping("accept", required=True)
        accepted, rejected = node.target("accepted"), node.target("rejected", required=True)
        if inner is None:
            empty = Template("", (), ())
            return cls(common, empty, None, None, (), Deadline(), True, accepted, rejected)
        step = cls(
            common,
            title=inner.template("title"),
            prompt=inner.template("prompt") if inner.has("prompt") else None,
            by=parse_by(inner),
            editable=inner.slot_paths("editable"),
            deadline=parse_deadline(inner, decides=True),
            binds=inner.boolean("digest", True),
            accepted=accepted,
            rejected=rejected,
        )
        inner.finish()
        return step

    def enter(self, draft: Draft) -> Outcome:
        """Ask."""
        if isinstance(draft, Scratch):
            return Wait("waiting_acceptance")  # what lies behind another acceptance is that one's
        frame = draft.frames[-1].frame
        pending = Pending(
            draft.new_id("p"),
            "acceptance",
            self.common.step_id,
            editable=self.editable,
            by=decider(draft, self.by),
            deadline=self.deadline.at(draft.now),
            created_at=draft.now,
            frame=frame,
        )
        open_request(draft, self.renewed(draft, pending))
        return Wait("waiting_acceptance")

    def ask_again(self, draft: Draft) -> Outcome:
        """Return to the request; follow it, if it was closed meanwhile."""
        pending = request_of(draft, self.common.step_id)
        if pending is None:
            return self.enter(draft)
        return Wait("waiting_acceptance") if pending.decided is None else self.follow(draft, pending)

    def follow(self, draft: Draft, pending: Pending) -> Outcome:
        """Go where the decision leads, or the deadline."""
        decided = pending.decided or {}
        if self.common.save is not None:
            told: dict[str, Any] = {name: decided[name] for name in ("accepted", "by", "comment", "edits")}
            draft.save(self.common.save, told, expose=self.common.expose)
        accepted = decided["accepted"]
        target = self.accepted if accepted else self.rejected
        if accepted is None:
            target = self.deadline.target
        return Next() if target is None else Goto(target)

    def undecided(self) -> bool | None:
        """Return what counts as decided when the deadline comes."""
        return self.deadline.accepted

    def renewed(self, draft: Draft, pending: Pending) -> Pending:
        """Return the request as its texts and its digest are now. May raise StepFailure."""
        context = Scratch(draft, pending.frame).context()
        return replace(
            pending,
            title=self.title.render(context),
            prompt=self.prompt.render(context) if self.prompt is not None else None,
            digest=self.digest(draft, pending.frame),
        )

    def digest(self, draft: Draft, frame: int) -> str | None:
        """Return the digest of the first effect behind ``accepted``, as it would be asked for now."""
        if not self.binds:
            return None
        scratch = Scratch(draft, frame)
        return digest_ahead(scratch, self.accepted or scratch.flow.next_of(self.common.step_id))

    def targets(self) -> tuple[str, ...]:
        """Return where the decision and the deadline lead."""
        return tuple(t for t in (self.accepted, self.rejected, self.deadline.target) if t is not None)

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions of its texts and of whom it asks."""
        prompt = self.prompt.expressions if self.prompt is not None else ()
        return (*self.title.expressions, *prompt, *expressions_of(self.by))
