"""The quick question of each commit has the answer of the slow one."""

from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from storage.listing import ACTIVITY_MS, is_same, listing_of, says_it_all, waits_of
from storage.models import Conversation, Pause, Pending
from tests.support.records import NOW, conversation, execution

KINDS: st.SearchStrategy[Any] = st.sampled_from(["input", "acceptance", "clarification"])
PENDING = st.builds(
    Pending,
    st.sampled_from(["p1", "p2"]),
    KINDS,
    st.just("gate"),
    decided=st.sampled_from([None, {"by": "u"}]),
)


@st.composite
def records(draw: st.DrawFn) -> Conversation:
    run = execution(
        status=draw(st.sampled_from(["waiting_input", "waiting_acceptance", "paused", "completed"])),
        project_id=draw(st.sampled_from([None, "p"])),
        pending=tuple(draw(st.lists(PENDING, max_size=2))),
        updated_at=NOW + draw(st.integers(0, 2)) * ACTIVITY_MS // 2,
        pause=draw(st.sampled_from([None, Pause("next", NOW), Pause("ask", NOW)])),
    )
    record = replace(
        conversation(),
        user_id=draw(st.sampled_from([None, "u"])),
        last_activity=NOW + draw(st.integers(0, 2)) * ACTIVITY_MS // 2,
        deleted_at=draw(st.sampled_from([None, None, NOW])),
    )
    return replace(record, execution=draw(st.sampled_from([run, run, None])))


@given(before=records(), after=records())
@example(before=conversation(), after=conversation())
def test_what_is_told_need_not_be_told_again_exactly_where_it_is_the_same(
    before: Conversation, after: Conversation
) -> None:
    listing, waits = listing_of(before), waits_of(before)
    same = is_same(listing_of(after), listing) and waits_of(after) == waits
    assert says_it_all(after, listing, waits) is same
    assert says_it_all(before, listing, waits)
