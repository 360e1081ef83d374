"""What lies ahead: the first effect that a flow would run from a step on, found without running anything."""

from dataclasses import replace

from server.engine.draft import Draft, FrameDraft
from server.engine.folding.requests import digest_of
from server.engine.folding.walk import walk


class Scratch(Draft):
    """A draft that is thrown away: what its steps fold, say and ask for never becomes true."""

    def __init__(self, draft: Draft, frame: int) -> None:
        """Copy ``draft`` as it is, without the frames above the one of this number."""
        super().__init__(draft.before, draft.now, draft.seed, draft.flows, draft.claimant, draft.ring_size)
        execution = draft.execution
        if execution is not None:  # neither time nor an operator stops what is only looked at
            execution = replace(execution, pause=None, timeout_ms=None)
        self.execution, self.turn = execution, None
        self.slots, self.variables, self.exposed = draft.slots, draft.variables, draft.exposed
        self.completed = list(draft.completed)
        self.pending = tuple(replace(p, binding=None) for p in draft.pending)
        self.attempts = ()
        self.steps = 0
        place = next((n for n, f in enumerate(draft.frames) if f.frame == frame), len(draft.frames) - 1)
        self.frames = [FrameDraft(f.freeze()) for f in draft.frames[: place + 1]]


def digest_ahead(scratch: Scratch, step_id: str | None) -> str | None:
    """Return the digest of the first effect from a step of the innermost frame on.

    The steps are walked as they would be walked now. None: the flow waits or ends before any effect (a
    later ``accept`` asks for what lies behind it).
    """
    walk(scratch, step_id)
    while scratch.unfinished:
        scratch.unfinished, scratch.bytes = False, 0
        walk(scratch, scratch.step_id)
    return digest_of(scratch.effects[0]) if scratch.effects else None
