"""Executions over REST: what a program without a conversation of its own starts, watches and decides."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import quote

from ._conversation import REQUEST_TIMEOUT_S, answers_body, decision_body
from ._rest import Rest
from .errors import WrongState
from .records import Execution, Pending, Receipt, items

Json = Any


class AsyncExecution:
    """One run of a flow. Get it from ``AsyncParley.start`` or ``AsyncParley.execution``.

    Its calls go over REST and need no open connection. Each returns when the command is durable, not when
    what it causes is done: to see that, ask ``get`` again, or watch ``parley.conversation(conversation_id)``.

    Attributes:
        execution_id: its id; None of a start that waits behind another run.
        conversation_id: the conversation that it runs in; None until the server has told.
        correlation_id: what its events, logs and outgoing calls carry; None until the server has told.
    """

    def __init__(
        self,
        rest: Rest,
        new_key: Callable[[], str],
        execution_id: str | None,
        *,
        conversation_id: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        self._rest = rest
        self._new_key = new_key
        self.execution_id = execution_id
        self.conversation_id = conversation_id
        self.correlation_id = correlation_id

    async def get(self, *, timeout: float | None = REQUEST_TIMEOUT_S) -> Execution:
        """Ask where it stands.

        Raises:
            ExecutionNotFound: it does not exist, or is not this principal's to see.
            ParleyError: as ``accept``.
        """
        found = await self._rest.get(self._path(), timeout=timeout)
        record = Execution.from_wire(found)
        self.conversation_id = record.conversation_id or self.conversation_id
        self.correlation_id = record.correlation_id or self.correlation_id
        return record

    async def pending(self, *, timeout: float | None = REQUEST_TIMEOUT_S) -> tuple[Pending, ...]:
        """Ask which acceptance requests and clarifications are open; raises as ``get``."""
        found = (await self.get(timeout=timeout)).pending
        return tuple(one for one in found if one.kind != "input" and one.decided is None)

    async def accept(
        self,
        pending: str | Pending,
        *,
        comment: str | None = None,
        edits: Mapping[str, Json] | None = None,
        digest: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Accept an acceptance request; arguments as ``AsyncConversation.accept``.

        Raises:
            PendingResolved: somebody was faster; ``decided`` says who, and what.
            PendingExpired: its deadline is over.
            PermissionDenied: it is for others to decide.
            WrongState: what would run is not what was shown; look again.
            BadRequest: an edit that is not allowed or not valid; ``field`` names it.
            Refused: the server refused it for another reason.
            ConnectionLost: no answer, after several attempts; it may have taken effect, and calling again
                with the same ``idempotency_key`` is safe.
            Timeout: the same within ``timeout`` seconds.
        """
        body = decision_body(pending, True, comment, edits, digest)
        return await self._post("acceptance", body, idempotency_key, timeout)

    async def reject(
        self,
        pending: str | Pending,
        *,
        comment: str | None = None,
        digest: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Reject an acceptance request; raises as ``accept``."""
        body = decision_body(pending, False, comment, None, digest)
        return await self._post("acceptance", body, idempotency_key, timeout)

    async def answer(
        self, pending: str | Pending, answers: Mapping[str, Json] | None = None, /, **by_id: Json
    ) -> Receipt:
        """Answer a clarification; raises ``MissingAnswers``, and else as ``accept``."""
        return await self.answer_with(pending, {**(answers or {}), **by_id})

    async def answer_with(
        self,
        pending: str | Pending,
        answers: Mapping[str, Json],
        *,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Answer a clarification with a key and a timeout of one's own; see ``answer``."""
        return await self._post("clarification", answers_body(pending, answers), idempotency_key, timeout)

    async def pause(
        self,
        reason: str | None = None,
        *,
        deadline_ms: int | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Hold it until ``resume``, or for ``deadline_ms`` milliseconds.

        Raises:
            WrongState: it has ended.
            ParleyError: as ``accept``.
        """
        body = {"reason": reason, "deadline_ms": deadline_ms}
        return await self._post("pause", body, idempotency_key, timeout)

    async def resume(
        self,
        comment: str | None = None,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Let it go on; raises ``WrongState`` where it is not paused."""
        return await self._post("resume", {"comment": comment}, idempotency_key, timeout)

    async def cancel(
        self,
        reason: str | None = None,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """End it; raises ``WrongState`` where it has ended."""
        return await self._post("cancel", {"reason": reason}, idempotency_key, timeout)

    async def retry(
        self, *, idempotency_key: str | None = None, timeout: float | None = REQUEST_TIMEOUT_S
    ) -> Receipt:
        """Try again from the step that failed; raises ``WrongState`` where it has not failed."""
        return await self._post("retry", {}, idempotency_key, timeout)

    async def signal(
        self,
        name: str,
        payload: Json = None,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Tell it that the event ``name`` has happened; raises ``WrongState`` if nothing waits for it."""
        return await self._post("signal", {"name": name, "payload": payload}, idempotency_key, timeout)

    def _path(self) -> str:
        if self.execution_id is None:
            raise WrongState(
                "This start waits behind another run and has no id yet.",
                suggestion=f"Watch the conversation {self.conversation_id}.",
            )
        return f"/executions/{quote(self.execution_id, safe='')}"

    async def _post(
        self, what: str, body: Mapping[str, Json], key: str | None, timeout: float | None
    ) -> Receipt:
        path = f"{self._path()}/{what}"
        return Receipt.from_wire(
            await self._rest.post(path, body, key=key or self._new_key(), timeout=timeout)
        )


async def pages(
    rest: Rest, path: str, name: str, query: Mapping[str, Json], timeout: float | None
) -> AsyncIterator[Mapping[str, Json]]:
    """Yield the records of a list, page after page; ``name`` is the page's field that holds them."""
    cursor: Json = None
    while True:
        page = await rest.get(path, {**query, "cursor": cursor}, timeout=timeout)
        for record in items(page.get(name)):
            yield record
        cursor = page.get("cursor")
        if cursor is None:
            return
