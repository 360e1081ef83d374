"""A form of three slots as a LangGraph graph with its SQLite checkpointer: one turn a message."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

import orjson
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.peers.serve import arguments, serve

SLOTS = ("service", "date", "email")
QUESTIONS = {"service": "Which service?", "date": "Which day?", "email": "Your email?"}


class Form(TypedDict):
    """What the graph keeps for a conversation."""

    text: str
    slots: dict[str, str]
    reply: str


def understand(state: Form) -> dict[str, Any]:
    """Put the message into the first open slot; the first message only starts the form."""
    slots = dict(state.get("slots") or {})
    if state["text"] == "book":
        return {"slots": {}}
    for name in SLOTS:
        if name not in slots:
            slots[name] = state["text"]
            break
    return {"slots": slots}


def ask(state: Form) -> dict[str, Any]:
    """Ask for the first open slot."""
    return {"reply": next(QUESTIONS[name] for name in SLOTS if name not in state["slots"])}


def confirm(state: Form) -> dict[str, Any]:
    """Say that the form is complete."""
    return {"reply": f"Booked: {state['slots']['service']} on {state['slots']['date']}."}


def graph() -> Any:
    """Return the form as a graph of three nodes."""
    form = StateGraph(Form)
    form.add_node("understand", understand)
    form.add_node("ask", ask)
    form.add_node("confirm", confirm)
    form.add_edge(START, "understand")
    form.add_conditional_edges("understand", lambda state: "confirm" if len(state["slots"]) == 3 else "ask")
    form.add_edge("ask", END)
    form.add_edge("confirm", END)
    return form


def application(path: str) -> Starlette:
    """Serve the graph over the same frames as the typed echo."""
    compiled: Any = None

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        nonlocal compiled
        async with AsyncSqliteSaver.from_conn_string(path) as saver:
            await saver.setup()
            await saver.conn.execute("PRAGMA synchronous=FULL")
            compiled = graph().compile(checkpointer=saver)
            yield

    async def turns(socket: WebSocket) -> None:
        await socket.accept(subprotocol="parley.v1")
        try:
            while True:
                frame = orjson.loads(await socket.receive_text())
                config = {"configurable": {"thread_id": frame["conversation_id"]}}
                state = await compiled.ainvoke({"text": frame["content"]["text"]}, config)
                reply = {"type": "ack", "id": frame["id"], "result": {"text": state["reply"]}}
                await socket.send_text(orjson.dumps(reply).decode())
        except WebSocketDisconnect:
            return

    return Starlette(routes=[WebSocketRoute("/v1/ws", turns)], lifespan=lifespan)


if __name__ == "__main__":
    port, directory = arguments()
    serve(application(str(directory / "langgraph.db")), port)
