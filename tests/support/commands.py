"""Runs ``parley`` as people do: as processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-for-tests-of-at-least-32-bytes"
TIMEOUT_S = 60
OF_REDIS = "ignore:'asyncio.iscoroutinefunction' is deprecated:DeprecationWarning"
"""On Python 3.14, of redis 8.1."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which ``python -m server`` is this source tree, and without settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return {
        **env,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python" / "src")]),
        "PYTHONWARNINGS": f"error,{OF_REDIS}",
        **(extra or {}),
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "server", *arguments]


def parley(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, says: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; ``says`` is its standard input."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(env),
        input=says,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


class _Output:
    """What a process has written to one of its streams; a thread reads it, so that the pipe never fills."""

    def __init__(self, descriptor: int) -> None:
        self._text = ""
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(descriptor,), daemon=True)
        self._thread.start()

    def _read(self, descriptor: int) -> None:
        while data := _read(descriptor):
            with self._changed:
                self._text += data.decode(errors="replace")
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Wait until the pattern is there, behind position ``after``; fail if the stream ends before."""
        found: list[re.Match[str]] = []

        def there() -> bool:
            found.extend(filter(None, [re.compile(pattern, re.MULTILINE).search(self._text, after)]))
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(there, TIMEOUT_S)
            assert found, f"no {pattern!r} in {self._text[after:]!r}"
        return found[0]

    @property
    def text(self) -> str:
        """Everything so far; all of it once the process has ended and ``close`` was called."""
        with self._changed:
            return self._text

    def close(self) -> None:
        self._thread.join(TIMEOUT_S)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # what Linux says of a terminal whose other side is closed
        return b""


class Running:
    """A command that runs until it is stopped. As a context manager it is killed at the end."""

    def __init__(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out = _Output(self.process.stdout.fileno())
        self.err = _Output(self.process.stderr.fileno())

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hang_up(self) -> int:
        """End its standard input, and wait for its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.wait()

    def signal(self, number: signal.Signals) -> int:
        """Send a signal, and wait for the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL: nothing of it gets a chance to tidy up."""
        self.signal(signal.SIGKILL)

    def wait(self) -> int:
        code = self.process.wait(TIMEOUT_S)
        self.out.close()
        self.err.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class Terminal:
    """A command in a terminal of its own, at which a person types."""

    def __init__(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self._keyboard, line = os.openpty()
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=cwd,
            env=environment({"TERM": "xterm", **(env or {})}),
            preexec_fn=lambda: os.login_tty(line),
            pass_fds=[line],
        )
        os.close(line)
        self.screen = _Output(self._keyboard)

    def type(self, keys: str) -> None:
        """Press keys; ``\\n`` is Return, ``\\x03`` Ctrl-C, ``\\x04`` Ctrl-D."""
        os.write(self._keyboard, keys.encode())

    def shows(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Wait until the screen shows it."""
        return self.screen.wait_for(pattern, after)

    def wait(self) -> int:
        code = self.process.wait(TIMEOUT_S)
        self.screen.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        self.screen.close()
        os.close(self._keyboard)


class Dev(Running):
    """``parley dev``, ready."""

    def __init__(
        self, project: Path, *arguments: str, port: int = 0, env: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(["dev", "--port", str(port), *arguments], project, env)
        self.url = self.out.wait_for(r"on (http://\S+)$")[1]


class Serve(Running):
    """``parley serve``, ready."""

    def __init__(self, project: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        super().__init__(
            ["serve", "--port", "0", "--json", *arguments],
            project,
            {"PARLEY_JWT_SECRET": SECRET, **(env or {})},
        )
        self.url = str(json.loads(self.out.wait_for(r"^\{.*\}$")[0])["url"])
