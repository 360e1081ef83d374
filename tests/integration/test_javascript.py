"""The JavaScript SDK against a real server: what its README shows, and an outbox in a browser's tabs."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import running_browser
from tests.support.javascript import CLIENTS, bundle, serve_folder
from tests.support.server import ServerProcess, server_process, token

pytestmark = pytest.mark.needs("node")

ROOT = Path(__file__).parents[2]
README = CLIENTS / "javascript" / "README.md"
SNIPPETS = re.findall(r"^```js\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
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


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_snippets_of_the_readme_run(tmp_path: Path, number: int) -> None:
    source = tmp_path / "snippet.mjs"
    source.write_text(SNIPPETS[number])
    program = bundle(str(source), tmp_path / "out.mjs", platform="node")
    project = shutil.copytree(ROOT / "examples" / "booking", tmp_path / "booking")
    with server_process(project) as server:
        given = {"PARLEY_URL": server.url, "PARLEY_TOKEN": token()}
        done = subprocess.run(
            ["node", str(program)],
            env=os.environ | given,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    expected = ("Which service?", "true\n", "0\n")[number]
    assert expected in done.stdout


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


@pytest.mark.needs("browser")
def test_what_was_typed_offline_survives_the_page_and_is_said_once(server: ServerProcess, site: str) -> None:
    """A reload, a second tab that lives, and another person after the first."""
    said = "chat.messages.filter(({ role }) => role === 'user').map(({ text }) => text)"
    with running_browser() as browser:
        context = browser.new_context()

        def tab(user: str) -> None:
            page.goto(site)
            page.add_script_tag(url="/tab.js", type="module")
            page.wait_for_function("() => Boolean(globalThis.begin)")
            page.evaluate("(given) => begin(...given)", [server.url, token(user), f"with-{user}"])

        page = context.new_page()
        tab("ann")
        page.evaluate("chat.ask('hello').then(() => null)")
        context.set_offline(True)
        page.evaluate("globalThis.parley.close()")
        kept = {"type": "process", "conversation_id": "with-ann", "idempotency_key": "typed-offline-1"}
        frame = kept | {"content": {"type": "text", "text": "Ann"}}
        # as a page leaves it that is gone before the network is back: nobody holds its lock
        url = f"{server.url.replace('http', 'ws')}/v1/ws"
        entry = json.dumps({"frame": frame, "owner": "t1/ann", "url": url})
        place = "`parley-outbox:parley:gone:${Date.now()}:000000001`"
        page.evaluate(f"(entry) => localStorage.setItem({place}, entry)", entry)
        context.set_offline(False)
        tab("bob")
        assert page.evaluate("told.some(([state, code]) => code === 'outbox_of_another')")
        page.evaluate("parley.close()")
        assert page.evaluate("localStorage.length") == 1
        tab("ann")
        page.wait_for_function(f"{said}.length === 2")
        assert page.evaluate(said) == ["hello", "Ann"]
        page.wait_for_function("localStorage.length === 0")
        context.close()
