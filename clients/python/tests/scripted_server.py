"""A small Parley server on a real socket that does what a test tells it to.

It keeps conversations in memory and follows the protocol as far as a client can see it: idempotent
commands, contiguous offsets, resume or snapshot. Tests put faults in: ``on`` intercepts frames that come
in, ``wire`` changes what goes out, ``cut`` ends connections without ceremony.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Frame = dict[str, Any]
Hook = Callable[["Connection", Frame], Awaitable[bool]]
"""Sees a frame before the server does; True: it was dealt with."""


class Chat:
    """One conversation: its log, and the outcome of each key."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.events: list[Frame] = []
        self.outcomes: dict[str, Frame] = {}
        self.processed: list[str] = []

    @property
    def offset(self) -> int:
        return len(self.events)

    @property
    def messages(self) -> list[Frame]:
        return [
            event["data"]
            for event in self.events
            if event["type"] in ("message.received", "message.completed")
        ]


class Connection:
    """One client's socket."""

    def __init__(self, server: "ScriptedServer", socket: ServerConnection) -> None:
        self.server = server
        self.socket = socket
        self.watching: set[str] = set()
        self.received: list[Frame] = []
        self.silent = False

    async def send(self, frame: Frame) -> None:
        for each in self.server.wire(self, frame):
            if not self.silent:
                with contextlib.suppress(ConnectionClosed):
                    await self.socket.send(json.dumps(each))

    async def close(self, code: int, reason: str = "") -> None:
        await self.socket.close(code, reason)

    def cut(self) -> None:
        """End as a pulled cable does: no close frame."""
        self.socket.transport.abort()


class ScriptedServer:
    """Use it as ``async with ScriptedServer() as server``; ``server.url`` is where it listens."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.chats: dict[str, Chat] = {}
        self.tokens: list[str | None] = []
        self.hooks: dict[str, list[Hook]] = {}
        self.wire: Callable[[Connection, Frame], list[Frame]] = lambda connection, frame: [frame]
        self.replayable = 1000
        self.frames_per_second: int | None = None
        self.refuse: Callable[[Request], Response | None] = lambda request: None
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            0,
            subprotocols=["parley.v1"],  # type: ignore[list-item]
            compression=None,
            ping_interval=None,
            close_timeout=1,
            process_request=lambda connection, request: self.refuse(request),
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self.connections:
            connection.cut()
        await self._server.wait_closed()

    @property
    def live(self) -> list[Connection]:
        return [each for each in self.connections if each.socket.close_code is None]

    def on(self, kind: str, hook: Hook) -> None:
        """Intercept the next frame of this type (several hooks: one frame each)."""
        self.hooks.setdefault(kind, []).append(hook)

    def cut(self) -> None:
        """End all connections without ceremony."""
        for connection in self.live:
            connection.cut()

    def frames(self, kind: str) -> list[Frame]:
        """All frames of this type that came in, over all connections."""
        return [frame for each in self.connections for frame in each.received if frame["type"] == kind]

    async def _handle(self, socket: ServerConnection) -> None:
        connection = Connection(self, socket)
        self.connections.append(connection)
        with contextlib.suppress(ConnectionClosed):
            async for text in socket:
                frame = json.loads(text)
                connection.received.append(frame)
                hooks = self.hooks.get(frame["type"])
                if hooks and await hooks.pop(0)(connection, frame):
                    continue
                await self.dispatch(connection, frame)

    async def dispatch(self, connection: Connection, frame: Frame) -> None:
        """Do what a frame asks for."""
        kind = frame["type"]
        if kind in ("process", "reset", "acceptance", "clarification", "cancel"):
            await self._command(connection, frame)
        else:
            await getattr(self, "_" + kind)(connection, frame)

    # --- frames -------------------------------------------------------------------------------

    async def _hello(self, connection: Connection, frame: Frame) -> None:
        self.tokens.append(frame.get("token"))
        name = frame.get("conversation_id")
        recovered, follow = (True, list[Frame]()) if name is None else self._attach(connection, name, frame)
        chat = self.chats.get(name) if name else None
        await connection.send(
            {
                "type": "welcome",
                "id": frame["id"],
                "connection_id": f"n{len(self.connections)}",
                "protocol": "parley.v1",
                "conversation_id": name,
                "epoch": chat.epoch if chat else None,
                "offset": chat.offset if chat else 0,
                "recovered": recovered,
                "principal": {
                    "user_id": "u",
                    "tenant_id": "t",
                    "role": "user",
                    "scopes": [],
                    "tier": "standard",
                },
                "ping_interval": 25,
                "token_expires_in": 3600,
                "limits": {"max_frame_bytes": 65536, "frames_per_second": self.frames_per_second or 100_000},
            }
        )
        for each in follow:
            await connection.send(each)

    async def _subscribe(self, connection: Connection, frame: Frame) -> None:
        name = frame["conversation_id"]
        recovered, follow = self._attach(connection, name, frame)
        chat = self.chats.get(name)
        epoch, offset = (chat.epoch, chat.offset) if chat else (None, 0)
        result = {"conversation_id": name, "epoch": epoch, "offset": offset, "recovered": recovered}
        await connection.send(ack(frame, result=result, epoch=epoch, offset=offset))
        for each in follow:
            await connection.send(each)

    def _attach(self, connection: Connection, name: str, frame: Frame) -> tuple[bool, list[Frame]]:
        connection.watching.add(name)
        chat, resume = self.chats.get(name), frame.get("resume")
        if chat is None:
            return (True, []) if resume is None else (False, [snapshot(name, None)])
        missed = chat.offset - resume["offset"] if resume else -1
        if resume is None or resume["epoch"] != chat.epoch or not 0 <= missed <= self.replayable:
            return False, [snapshot(name, chat)]
        return True, [events(name, chat, resume["offset"] + 1, chat.offset)] if missed else []

    async def _unsubscribe(self, connection: Connection, frame: Frame) -> None:
        connection.watching.discard(frame["conversation_id"])
        await connection.send(ack(frame))

    async def _auth(self, connection: Connection, frame: Frame) -> None:
        self.tokens.append(frame["token"])
        await connection.send(ack(frame))

    async def _state(self, connection: Connection, frame: Frame) -> None:
        chat = self.chats.get(frame["conversation_id"])
        if chat is None:
            await connection.send(error(frame["id"], "conversation_not_found"))
        else:
            await connection.send(ack(frame, result=state(frame["conversation_id"], chat)))

    async def _history(self, connection: Connection, frame: Frame) -> None:
        chat = self.chats[frame["conversation_id"]]
        before = frame.get("before") or chat.offset + 1
        older = [message for message in chat.messages if message["offset"] < before]
        page = older[-frame.get("limit", 50) :]
        rest = page[0]["offset"] if len(older) > len(page) else None
        await connection.send(ack(frame, result={"messages": page, "before": rest}))

    async def _typing(self, connection: Connection, frame: Frame) -> None:
        notice = {**frame, "user_id": "other"}
        for each in self.live:
            if each is not connection and frame["conversation_id"] in each.watching:
                await each.send(notice)

    async def _pong(self, connection: Connection, frame: Frame) -> None:
        """Nothing to do."""

    async def _command(self, connection: Connection, frame: Frame) -> None:
        name, key = frame["conversation_id"], frame["idempotency_key"]
        chat = self.chats.get(name)
        duplicate = chat is not None and key in chat.outcomes
        first = self.apply(frame) if not duplicate else None
        chat = self.chats[name]
        outcome = chat.outcomes[key]
        await connection.send(ack(frame, duplicate=duplicate, **outcome))
        if first is not None:
            await self.publish(name, first)

    # --- conversations ------------------------------------------------------------------------

    def apply(self, frame: Frame) -> int:
        """Carry out a command and note its outcome; returns the first offset of its commit."""
        name, key = frame["conversation_id"], frame["idempotency_key"]
        chat = self.chats.setdefault(name, Chat(f"e{len(self.chats) + 1}"))
        first = chat.offset + 1
        if first == 1:
            append(chat, "conversation.created", key, {"user_id": "u", "channel": "web"})
        text = (
            frame.get("content", {}).get("text") or frame.get("content", {}).get("payload") or frame["type"]
        )
        chat.processed.append(text)
        said: list[Frame] = []
        if frame["type"] == "process":
            append(chat, "message.received", key, message(chat, "user", text))
            said.append(message(chat, "assistant", f"echo {text}"))
            append(chat, "message.completed", key, said[0])
        elif frame["type"] == "reset":
            append(chat, "conversation.reset", key, {"reason": frame.get("reason", "manual_reset")})
        failed = text == "fail"
        data: Frame = {
            "conversation_id": name,
            "current_state": "ask",
            "response": {"messages": said},
            "context_updates": {"slots": {"said": text}, "variables": {}},
            "actions_performed": [],
            "processing_time_ms": 1,
            "success": not failed,
            "ab_variant": None,
        }
        if failed:
            data["error"] = error_body("step_failed", "The step failed.")
        append(chat, "turn.failed" if failed else "turn.completed", key, data)
        chat.outcomes[key] = {
            "status": "failed" if failed else "completed",
            "execution_id": "x1",
            "epoch": chat.epoch,
            "offset": chat.offset,
            "command_id": key,
            "result": data,
        }
        return first

    async def publish(self, name: str, first: int) -> None:
        """Show a conversation's events from ``first`` on to all who watch it."""
        chat = self.chats[name]
        for connection in self.live:
            if name in connection.watching:
                await connection.send(events(name, chat, first, chat.offset))

    async def say(self, name: str, text: str, key: str | None = None) -> None:
        """Another device says something."""
        content = {"type": "text", "text": text}
        number = len(self.chats[name].processed) if name in self.chats else 0
        frame = {"type": "process", "conversation_id": name, "content": content}
        first = self.apply({**frame, "idempotency_key": key or f"other-device-{number}"})
        await self.publish(name, first)

    async def ask_for(self, name: str, kind: str, **request: Any) -> None:
        """Open a request to a person."""
        chat = self.chats[name]
        append(chat, f"{kind}.requested", None, {"kind": kind, "step_id": "gate", **request})
        await self.publish(name, chat.offset)

    async def ping(self) -> None:
        """Ping everybody."""
        for connection in self.live:
            offsets = {name: self.chats[name].offset for name in connection.watching if name in self.chats}
            await connection.send({"type": "ping", "offsets": offsets})


# --- frames as the protocol has them ---------------------------------------------------------------


def append(chat: Chat, kind: str, key: str | None, data: Frame) -> None:
    offset = chat.offset + 1
    if kind.startswith("message."):
        data["offset"] = offset
    chat.events.append(
        {
            "type": kind,
            "offset": offset,
            "time": "2026-01-01T00:00:00.000Z",
            "execution_id": "x1",
            "step_id": None,
            "command_id": key,
            "cause": None,
            "data": data,
        }
    )


def message(chat: Chat, role: str, text: str) -> Frame:
    return {
        "message_id": f"{chat.epoch}-m{chat.offset + 1}-{role}",
        "role": role,
        "type": "text",
        "text": text,
        "payload": None,
        "buttons": [],
        "metadata": {},
        "user_id": "u" if role == "user" else None,
        "time": "2026-01-01T00:00:00.000Z",
        "offset": chat.offset + 1,
    }


def events(name: str, chat: Chat, first: int, last: int) -> Frame:
    return {
        "type": "events",
        "conversation_id": name,
        "epoch": chat.epoch,
        "from": first,
        "to": last,
        "events": chat.events[first - 1 : last],
    }


def state(name: str, chat: Chat) -> Frame:
    return {
        "conversation_id": name,
        "current_state": "ask",
        "status": "waiting_input",
        "flow_id": "echo",
        "flow_version": 1,
        "user_id": "u",
        "channel": "web",
        "slots": {},
        "variables": {},
        "pending": [],
        "completed_steps": [],
        "message_count": len(chat.messages),
        "epoch": chat.epoch,
        "offset": chat.offset,
    }


def snapshot(name: str, chat: Chat | None) -> Frame:
    return {
        "type": "snapshot",
        "conversation_id": name,
        "epoch": chat.epoch if chat else None,
        "offset": chat.offset if chat else 0,
        "state": state(name, chat) if chat else None,
        "messages": chat.messages if chat else [],
        "before": None,
        "pending": [],
        "partials": [],
    }


def ack(frame: Frame, **more: Any) -> Frame:
    plain = {
        "type": "ack",
        "id": frame["id"],
        "duplicate": False,
        "command_id": None,
        "status": "completed",
        "execution_id": None,
        "epoch": None,
        "offset": None,
        "result": None,
    }
    return {**plain, **more}


def error_body(code: str, text: str = "no", **more: Any) -> Frame:
    plain = {
        "code": code,
        "message": text,
        "temporary": False,
        "retry_after_ms": None,
        "field": None,
        "details": None,
        "suggestion": None,
        "docs": "d",
    }
    return {**plain, **more}


def error(frame_id: str | None, code: str, text: str = "no", **more: Any) -> Frame:
    return {"type": "error", "id": frame_id, "error": error_body(code, text, **more)}


async def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Let the loop turn until something has become true."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.001)
