"""The JavaScript SDK as installed, in each runtime that it is for: one program, one conversation."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.javascript import CLIENTS
from tests.support.server import server_process, token

pytestmark = pytest.mark.needs("node")  # which builds the package

RUNTIMES = {
    "node": ("node",),
    "bun": ("bun",),
    "deno": (
        "deno", "run", "--node-modules-dir=manual", "--no-prompt",
        "--allow-net=127.0.0.1", "--allow-env", "--allow-read", "--allow-write=.",
    ),
}  # fmt: skip
PROGRAM = """
import process from "node:process";
import { Parley, WrongState } from "parley-client";
import { fileOutbox } from "parley-client/node";

const { PARLEY_URL, PARLEY_TOKEN } = process.env;
const sent = [], states = [];
const parley = new Parley(PARLEY_URL, {
  token: async () => PARLEY_TOKEN,
  random: () => 0,
  outbox: fileOutbox("unsent"),
  onFrame: (way, text) => way === "out" && sent.push(JSON.parse(text)),
  WebSocket: globalThis.WebSocket && class extends WebSocket {
    constructor(...given) { super(...given); globalThis.socket = this; }
  },
});
parley.on("connection", ({ state }) => states.push(state));
await parley.connect();
const chat = parley.conversation();
const types = [];
for await (const event of chat.send("hello")) {
  types.push(event.type);
}
const stop = new AbortController();
const left = chat.send("Ann", { signal: stop.signal });
stop.abort(new Error("enough"));
const why = await left.next().catch((error) => error.message);
globalThis.socket?.close(3000); // the command may be on its way
const turn = await chat.ask("red", { timeoutMs: 20_000 });
await chat.ready();
const said = chat.messages.filter(({ role }) => role === "user").map(({ text }) => text);
const runs = [];
for await (const run of parley.executions()) {
  runs.push(run.status);
}
const ended = await parley.execution(turn.execution_id).cancel().catch((error) => error);
await parley.close();
const closed = await chat.ask("more").catch((error) => error.code);
console.log(JSON.stringify({
  last: types.at(-1), why, text: turn.text, said, runs, refused: ended instanceof WrongState, closed,
  unsent: parley.unacknowledged, connected: states.filter((state) => state === "connected").length,
  own: Boolean(globalThis.socket), keys: new Set(sent.flatMap((frame) => frame.idempotency_key ?? [])).size,
}));
"""


@pytest.mark.parametrize(
    "runtime", ["node", *(pytest.param(name, marks=pytest.mark.needs(name)) for name in ("bun", "deno"))]
)
def test_a_conversation_goes_on_over_a_lost_connection_and_an_abort(tmp_path: Path, runtime: str) -> None:
    """Turns, an abort, a reconnection, an outbox in a file, REST and the end; the process ends by itself."""
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "program.mjs").write_text(PROGRAM)
    with server_process(tmp_path) as server:
        done = subprocess.run(
            [*RUNTIMES[runtime], "program.mjs"],
            env=os.environ | {"PARLEY_URL": server.url, "PARLEY_TOKEN": token()},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    # Node 20 has no WebSocket to keep, so nothing breaks its connection here
    own = told.pop("own")
    assert own or runtime == "node"
    assert told == {
        "last": "turn.completed",
        "why": "enough",
        "text": "Hello Ann, you like red.",
        "said": ["hello", "Ann", "red"],
        "runs": ["completed"],
        "refused": True,
        "closed": "connection_closed",
        "unsent": 0,
        "connected": 2 if own else 1,
        "keys": 3,
    }
