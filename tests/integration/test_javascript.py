"""The JavaScript SDK against a real server: what its README shows, and an outbox in a browser's tabs."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import context_of, running_browser
from tests.support.javascript import CLIENTS, bundle, serve_folder
from tests.support.server import ServerProcess, server_process, token

pytestmark = pytest.mark.needs("node")

ROOT = Path(__file__).parents[2]
README = CLIENTS / "javascript" / "README.md"
VECTORS = ROOT / "protocol" / "vectors"
HOW_TO = ROOT / "docs" / "how-to" / "build-a-front-end.md"


def snippets(page: Path) -> list[str]:
    return re.findall(r"^```js\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


SNIPPETS = snippets(README)
TAB = """
import { browserOutbox, Parley } from "parley-client";
globalThis.begin = (url, token, name) => {
  globalThis.parley = new Parley(url, { token, outbox: browserOutbox() });
  globalThis.chat = parley.conversation(name);
  globalThis.told = [];
  parley.on("connection", ({ state, error }) => told.push([state, error?.code ?? null]));
  return chat.ready();
};
"""


def output(program: Path, server: ServerProcess) -> str:
    """Run a program in its folder, as somebody whom the server knows; return what it printed."""
    done = subprocess.run(
        ["node", str(program)],
        env=os.environ | {"PARLEY_URL": server.url, "PARLEY_TOKEN": token()},
        cwd=program.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_snippets_of_the_readme_run(tmp_path: Path, number: int) -> None:
    source = tmp_path / "snippet.mjs"
    source.write_text(SNIPPETS[number])
    program = bundle(str(source), tmp_path / "out.mjs", platform="node")
    project = shutil.copytree(ROOT / "examples" / "booking", tmp_path / "booking")
    with server_process(project) as server:
        said = output(program, server)
    expected = ("Which service?", "true\n", "0\n")[number]
    assert expected in said


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "index.html").write_text("<!doctype html><title>A site</title>")
    (tmp_path / "tab.mjs").write_text(TAB)
    bundle(str(tmp_path / "tab.mjs"), tmp_path / "tab.js", platform="browser")
    with serve_folder(tmp_path) as url:
        yield url


@pytest.fixture
def server(tmp_path: Path, site: str) -> Iterator[ServerProcess]:
    with server_process(tmp_path, PARLEY_ORIGINS=site) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of somebody who was never here."""
    with context_of(browser) as context:
        yield context.new_page()


@pytest.mark.needs("browser")
def test_the_golden_vectors_hold_in_chromium(page: Page, site: str, tmp_path: Path) -> None:
    """The file that Vitest runs in Node, with what a page has not in place of Vitest and Node."""
    shutil.copytree(VECTORS, tmp_path / "protocol" / "vectors")
    page_of_tests = "clients/javascript/tests/vectors.js"
    instead = dict.fromkeys(("vitest", "node:fs"), "./tests/in-a-page.ts")
    bundle("tests/vectors.test.ts", tmp_path / page_of_tests, platform="browser", instead=instead)
    page.goto(site)
    ran = page.evaluate(f"import('/{page_of_tests}').then(() => ran)")
    assert [case for case in ran if case["failure"]] == []
    files = [
        json.loads((VECTORS / f"{name}.json").read_text())
        for name in ("client_cursor", "close_codes", "decoding")
    ]
    assert len(ran) == sum(len(file.get("server_frames") or file["cases"]) for file in files) > 100


@pytest.mark.needs("browser")
def test_what_was_typed_offline_survives_the_page_and_is_said_once(
    server: ServerProcess, site: str, page: Page
) -> None:
    """A reload, a second tab that lives, and another person after the first."""
    said = "chat.messages.filter(({ role }) => role === 'user').map(({ text }) => text)"

    def tab(user: str) -> None:
        page.goto(site)
        page.add_script_tag(url="/tab.js", type="module")
        page.wait_for_function("() => Boolean(globalThis.begin)")
        page.evaluate("(given) => begin(...given)", [server.url, token(user), f"with-{user}"])

    tab("ann")
    page.evaluate("chat.ask('hello').then(() => null)")
    page.context.set_offline(True)
    page.evaluate("globalThis.parley.close()")
    kept = {"type": "process", "conversation_id": "with-ann", "idempotency_key": "typed-offline-1"}
    frame = kept | {"content": {"type": "text", "text": "Ann"}}
    # as a page leaves it that is gone before the network is back: nobody holds its lock
    url = f"{server.url.replace('http', 'ws')}/v1/ws"
    entry = json.dumps({"frame": frame, "owner": "t1/ann", "url": url})
    place = "`parley-outbox:parley:gone:${Date.now()}:000000001`"
    page.evaluate(f"(entry) => localStorage.setItem({place}, entry)", entry)
    page.context.set_offline(False)
    tab("bob")
    assert page.evaluate("told.some(([state, code]) => code === 'outbox_of_another')")
    page.evaluate("parley.close()")
    assert page.evaluate("localStorage.length") == 1
    tab("ann")
    page.wait_for_function(f"{said}.length === 2")
    assert page.evaluate(said) == ["hello", "Ann"]
    page.wait_for_function("localStorage.length === 0")


@pytest.mark.needs("browser")
def test_an_outbox_that_is_closed_at_once_is_held_by_nobody(
    server: ServerProcess, site: str, page: Page
) -> None:
    """Its lock may come after the closing; the next client of the page takes its commands over."""
    page.goto(site)
    page.add_script_tag(url="/tab.js", type="module")
    page.wait_for_function("() => Boolean(globalThis.begin)")
    at_once = "begin(...given).catch(() => {}); chat.send('hello'); parley.close();"
    page.evaluate(f"(given) => {{ {at_once} }}", [server.url, token(), "c1"])
    page.wait_for_function(
        "navigator.locks.query().then(({ held, pending }) => held.length + pending.length === 0)"
    )
    page.evaluate("(given) => begin(...given)", [server.url, token(), "c2"])
    page.wait_for_function("() => parley.unacknowledged === 0 && localStorage.length === 0")
    page.evaluate("([url, token]) => begin(url, token, 'c1')", [server.url, token()])
    said = "chat.messages.filter(({ role }) => role === 'user').map(({ text }) => text)"
    page.wait_for_function(f"{said}.length === 1")


@pytest.mark.needs("browser")
def test_what_was_typed_while_the_server_was_away_is_said_once_after_a_reload(
    tmp_path: Path, site: str, page: Page
) -> None:
    """The page lives while it loses its server, is typed into, and is reloaded before the server is back."""
    said = "chat.messages.filter(({ role }) => role === 'user').map(({ text }) => text)"

    def begin(then: str) -> None:
        page.add_script_tag(url="/tab.js", type="module")
        page.wait_for_function("() => Boolean(globalThis.begin)")
        page.evaluate(f"(given) => {then}", [first.url, token("ann"), "with-ann"])

    with server_process(tmp_path, PARLEY_ORIGINS=site) as first:
        page.goto(site)
        begin("begin(...given).then(() => chat.ask('hello')).then(() => null)")
        first.kill()
    page.wait_for_function("() => !parley.connected")
    page.evaluate("for (const text of ['Ann', 'blue']) chat.send(text)")
    assert page.evaluate("parley.unacknowledged") == 2
    page.reload()
    assert page.evaluate("typeof globalThis.chat") == "undefined"
    begin("{ begin(...given).catch(() => {}) }")
    page.wait_for_function("() => parley.unacknowledged === 2")
    with server_process(tmp_path, port=first.address[1], PARLEY_ORIGINS=site):
        page.wait_for_function(f"{said}.length === 3")
        page.wait_for_function("() => parley.unacknowledged === 0 && localStorage.length === 0")
        page.reload()
        begin("begin(...given)")
        assert page.evaluate(said) == ["hello", "Ann", "blue"]
        assert page.evaluate("chat.messages.at(-1).text") == "Hello Ann, you like blue."


FRONT_END = """
import { browserOutbox, Parley } from "parley-client";
globalThis.told = [];
const stub = (name) => (...given) => void told.push([name, ...given]);
const [draw, append, put] = ["draw", "append", "put"].map(stub);
const [remove, ask, close, tell, banner] = ["remove", "ask", "close", "tell", "banner"].map(stub);
%s
globalThis.say = async (text) => {
  %s
};
%s
globalThis.isReady = true;
"""


@pytest.mark.needs("browser")
def test_the_front_end_of_the_how_to_shows_what_happens(tmp_path: Path, page: Page) -> None:
    """Its snippets as they stand, but for the address; what they leave to the reader notes its calls."""
    begin, show, say, watch = snippets(HOW_TO)
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "chat-token").write_text(token("ann"))
    project = shutil.copytree(ROOT / "examples" / "booking", tmp_path / "booking")
    with serve_folder(folder) as site:
        (folder / "index.html").write_text('<!doctype html><script type="module" src="/page.js"></script>')
        with server_process(project, PARLEY_ORIGINS=site) as server:
            there = begin.replace("https://chat.example.com", server.url)
            (tmp_path / "page.mjs").write_text(FRONT_END % (there + watch, say, show))
            bundle(str(tmp_path / "page.mjs"), folder / "page.js", platform="browser")
            page.goto(site)
            page.wait_for_function("() => globalThis.isReady")
            page.evaluate("say('I need an appointment')")
            put = "told.filter(([name]) => name === 'put').map(([, message]) => [message.role, message.text])"
            assert page.evaluate(put) == [["user", "I need an appointment"], ["assistant", "Which service?"]]
            assert page.evaluate("told.map(([name]) => name)")[:2] == ["banner", "draw"]
            page.reload()
            page.wait_for_function("() => globalThis.isReady")
            drawn = "told.find(([name]) => name === 'draw')[1].messages.map(({ text }) => text)"
            assert page.evaluate(drawn) == ["I need an appointment", "Which service?"]
        page.wait_for_function(
            "told.some(([name, text]) => name === 'banner' && /^Back in \\d+ s$/.test(text))"
        )
        assert page.evaluate("told.every(([name]) => name !== 'tell')")


REST_CALLS = """
const parley = new Parley(process.env.PARLEY_URL, { token: process.env.PARLEY_TOKEN });
const run = await parley.start("greet", { initialContext: { name: "Ann" } });
const again = parley.execution(run.executionId);
const told = [(await again.get()).status, (await again.pending()).length];
for await (const { execution_id } of parley.executions({ pageSize: 1 })) {
  told.push(execution_id === run.executionId);
}
for await (const item of parley.inbox()) {
  told.push(item);
}
for await (const event of parley.inboxEvents()) {
  told.push(event.type);
  break;
}
const receipt = await again.cancel({ reason: "enough" });
const refused = await again.cancel().catch((error) => error);
told.push(receipt.status, refused instanceof WrongState, refused.name, (await again.get()).ended);
console.log(JSON.stringify(told));
await parley.close();
"""
LOADS = {
    "mjs": 'import { Parley, WrongState } from "parley-client";\n%s',
    "cjs": 'const { Parley, WrongState } = require("parley-client");\n(async () => {%s})();',
}


@pytest.mark.parametrize("kind", LOADS)
def test_executions_are_started_and_steered_over_rest(tmp_path: Path, kind: str) -> None:
    """As installed, by ``import`` and by ``require``, without a bundler."""
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    program = tmp_path / f"program.{kind}"
    program.write_text(LOADS[kind] % REST_CALLS)
    with server_process(tmp_path) as server:
        said = output(program, server)
    assert json.loads(said) == [
        "waiting_input", 0, True, "ready", "completed", True, "WrongState", True,
    ]  # fmt: skip


BACK_AGAIN = """
async ([url, token]) => {
  const { Parley } = await import("/cdn.js");
  const sockets = [], states = [], sent = [];
  globalThis.seen = { sockets, states, sent };
  class Kept extends WebSocket {
    constructor(...given) { super(...given); sockets.push(this); }
  }
  const chances = [1]; // the first pause is as long as it can be, and its timer never rings
  const clock = {
    now: () => performance.now(),
    callLater: (ms, callback) => {
      const timer = ms >= 500 ? 0 : setTimeout(callback, ms);
      return () => clearTimeout(timer);
    },
  };
  const parley = new Parley(url, {
    token, WebSocket: Kept, clock, random: () => chances.pop() ?? 0,
    onFrame: (way, text) => way === "out" && sent.push(JSON.parse(text).conversation_id ?? null),
  });
  parley.on("connection", ({ state }) => states.push(state));
  await parley.connect({ timeoutMs: null });
  sockets[0].close();
}
"""


def back_online(page: Page) -> None:
    page.context.set_offline(True)
    page.context.set_offline(False)


def back_to_the_tab(page: Page) -> None:
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.mark.needs("browser")
@pytest.mark.parametrize("comes", [back_online, back_to_the_tab])
def test_a_browser_that_says_that_it_is_back_is_believed(
    server: ServerProcess, site: str, page: Page, tmp_path: Path, comes: Callable[[Page], None]
) -> None:
    """The pause before a reconnection ends at once; a connection that stands is asked for a sign of life."""
    shutil.copy(CLIENTS / "javascript" / "dist" / "parley-client.min.js", tmp_path / "cdn.js")
    page.goto(site)
    page.evaluate(BACK_AGAIN, [server.url, token()])
    page.wait_for_function("() => seen.states.at(-1) === 'disconnected'")
    comes(page)
    page.wait_for_function("() => seen.states.at(-1) === 'connected'")
    assert page.evaluate("seen.sockets.length") == 2
    comes(page)
    page.wait_for_function("() => seen.sent.includes('probe')")
    assert page.evaluate("seen.states.at(-1)") == "connected"


WITHOUT_A_BUILD = """
async ([file, url, token]) => {
  const { Parley, ParleyError, browserOutbox } = await import(file);
  const parley = new Parley(url, { token, outbox: browserOutbox() });
  const chat = parley.conversation("from-a-page");
  const types = [];
  for await (const event of chat.send("hello")) {
    types.push(event.type);
  }
  const refused = await chat.accept("p-none").catch((error) => error);
  await chat.ready();
  const runs = [];
  for await (const run of parley.executions({ pageSize: 1 })) {
    runs.push(run.conversation_id);
  }
  const unknown = await parley.execution("x-none").get().catch((error) => error);
  await parley.close();
  const { length } = chat.messages;
  const typed = [refused, unknown].every((error) => error instanceof ParleyError);
  return [types.at(-1), refused.name, refused.code, length > 1, runs, unknown.code, typed, parley.connected];
}
"""


@pytest.mark.needs("browser")
@pytest.mark.parametrize("file", ["parley-client.min.js", "parley-client.all.min.js"])
def test_a_page_without_a_build_chats_and_asks_over_rest(
    server: ServerProcess, site: str, page: Page, tmp_path: Path, file: str
) -> None:
    """The built files, whose inner names are letters; what REST needs comes when it is needed."""
    for built in (CLIENTS / "javascript" / "dist").glob("*.min.js"):
        shutil.copy(built, tmp_path)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    page.goto(site)
    told = page.evaluate(WITHOUT_A_BUILD, [f"/{file}", server.url, token()])
    assert told == [
        "turn.completed", "PendingNotFound", "pending_not_found", True,
        ["from-a-page"], "execution_not_found", True, False,
    ]  # fmt: skip
    assert [name for name in asked if name.endswith(".js")] == {
        "parley-client.min.js": ["parley-client.min.js", "parley-client.rest.min.js"],
        "parley-client.all.min.js": ["parley-client.all.min.js"],
    }[file]
