"""Follows a page of the documentation to the letter: writes its files, types its commands, says its lines.

What a block is, is read from the page itself, so that a page needs no test of its own:

- a block behind a paragraph that ends with ``:`` and names a file in backquotes is that file;
- an ``sh`` block is typed line by line; ``make run``, ``parley dev``, ``serve`` go on running;
- a ``text`` block behind a command is what it shows: those lines in that order, perhaps with others between,
  where ``...`` stands for anything; lines that begin with ``> `` are what a person types;
- Python that is no file is run as it stands;
- a block that says what it ``needs`` (```` ```sh needs docker````) is left out: see ``tests/test_docs.py``;
- ``json`` and files of other programs are checked by ``tests/test_docs.py`` only.
"""

import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.support.balancer import nginx, wait_until_it_listens
from tests.support.commands import ROOT, Running, environment
from tests.support.ports import free_port

FENCE = re.compile(
    r"^```(?P<language>\w*)(?: needs (?P<needs>\w+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_FILE = re.compile(r"`([\w./-]+\.(?:yaml|py|toml|env|conf|service|timer))`")
_EXPORT = re.compile(r'export (\w+)="(?:\$\((.*)\)|(.*))"')
_OWN_PORTS = ("8765", "8766", "8767", "8080")
"""Those that a page takes; a reader has others, and so may the services that it finds running."""


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        file: what it is the contents of.
        line: its first line in the page.
        needs: what has to be there to do what it says, beside what a test has.
    """

    language: str
    text: str
    file: str | None
    line: int
    needs: str | None


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text, end = page.read_text(encoding="utf-8"), 0
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        yield Block(match["language"], match["text"], _named(text[end : match.start()]), line, match["needs"])
        end = match.end()


def _named(prose: str) -> str | None:
    paragraph = prose.strip().rpartition("\n\n")[2]
    names = _FILE.findall(paragraph)
    return names[-1] if names and paragraph.endswith(":") else None


class Reader:
    """Somebody who does what a page says, in a folder of their own; a context manager.

    Args:
        services: the ports on which others' services are found, by those that the page names.

    Attributes:
        folder: where it is done. ``examples`` and ``deploy`` are there, as in a clone.
    """

    def __init__(self, folder: Path, services: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._ports = {**{port: str(free_port()) for port in _OWN_PORTS}, **(services or {})}
        self._port = self._ports[_OWN_PORTS[0]]
        self._exported = {"PARLEY_PORT": self._port}
        self._running = ExitStack()
        self._servers: dict[str, Running] = {}
        for name in ("examples", "deploy"):
            shutil.copytree(
                ROOT / name,
                folder / name,
                ignore=shutil.ignore_patterns("*.db*", ".parley", "__pycache__", "secret.env"),
            )

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def follow(self, page: Path) -> int:
        """Do all of it. Return how many blocks there were to do."""
        done = 0
        blocks = list(blocks_of(page))
        for number, block in enumerate(blocks):
            following = blocks[number + 1] if number + 1 < len(blocks) else None
            shown = following.text if following and following.language == "text" else None
            if block.needs is not None:
                continue
            if block.file is not None:
                self._write(block.file, block.text)
            elif block.language in {"sh", "console"}:
                self._type(block, shown)
            elif block.language == "python":
                self._run(["python", "-c", block.text], "")
            else:
                continue
            done += 1
        return done

    def _at_our_ports(self, text: str) -> str:
        return re.sub(rf"\b({'|'.join(self._ports)})\b", lambda found: self._ports[found[1]], text)

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._at_our_ports(text), encoding="utf-8")

    def _type(self, block: Block, shown: str | None) -> None:
        lines = [line for line in block.text.splitlines() if line.partition("#")[0].strip()]
        for number, line in enumerate(lines):
            self._command(self._at_our_ports(line), shown if number == len(lines) - 1 else None)

    def _command(self, line: str, shown: str | None) -> None:
        if export := _EXPORT.fullmatch(line.strip()):
            self._exported[export[1]] = self._answer(shlex.split(export[2])) if export[2] else export[3]
            return
        words = shlex.split(line, comments=True)
        match words:
            case ["unset", *names]:
                for name in names:
                    self._exported.pop(name, None)
            case ["parley" | ".venv/bin/parley", "dev" | "serve", *_]:
                self._start(words[1:])
            case ["parley", "export" | "import", *_]:  # they need the store for themselves
                self._stop()
                self._run(words, "")
            case ["nginx", *_]:
                process = self._running.enter_context(nginx(words[1:], self.folder))
                wait_until_it_listens(process, int(self._ports["8080"]))
            case ["make", "run"]:
                self._start(["dev", "examples/booking"])
            case _:
                expected = (shown or "").splitlines()
                says = "".join(f"{said[2:]}\n" for said in expected if said.startswith("> "))
                told = self._run(words, says)
                _assert_shown([said for said in expected if not said.startswith("> ")], told)

    def _answer(self, words: list[str]) -> str:
        match words:
            case ["openssl", "rand", "-hex", size]:
                return secrets.token_hex(int(size))
            case _:
                return self._run(words, "").strip()

    def _start(self, arguments: list[str]) -> None:
        port = arguments[arguments.index("--port") + 1] if "--port" in arguments else self._port
        self._stop(port)  # one at a time on one port
        self._servers[port] = self._running.enter_context(Running(arguments, self.folder, self._exported))
        self._servers[port].out.wait_for(rf":{port}")

    def _stop(self, *ports: str) -> None:
        for port in ports or tuple(self._servers):
            if server := self._servers.pop(port, None):
                server.process.terminate()
                server.wait()

    def _run(self, words: list[str], says: str) -> str:
        programs = {
            "parley": [sys.executable, "-m", "server"],
            ".venv/bin/parley": [sys.executable, "-m", "server"],
            "python": [sys.executable],
            ".venv/bin/python": [sys.executable],
        }
        done = subprocess.run(
            [*programs.get(words[0], words[:1]), *words[1:]],
            cwd=self.folder,
            env={**environment(self._exported), "PYTHONWARNINGS": "default"},
            input=says,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout


def _assert_shown(expected: list[str], told: str) -> None:
    lines = iter(told.splitlines())
    for wanted in expected:
        pattern = ".*".join(map(re.escape, wanted.strip().split("...")))
        assert any(re.fullmatch(pattern, line.strip()) for line in lines), f"no {wanted!r} in:\n{told}"
