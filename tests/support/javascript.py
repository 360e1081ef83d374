"""The JavaScript clients as ``make js`` builds them, for tests that run them in Node and in a browser."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
CLIENTS: Final = ROOT / "clients"
BUILT: Final = CLIENTS / "javascript" / "dist" / ".built"


def is_usable() -> bool:
    """Whether there is a Node, and what it needs is installed and built."""
    return shutil.which("node") is not None and BUILT.exists()


def bundle(source: str, target: Path, *, platform: str, instead: Mapping[str, str] | None = None) -> Path:
    """Put a file of ``clients/javascript`` and all that it imports into one, as applications do.

    ``instead`` has files of ours in place of packages.
    """
    esbuild = CLIENTS / "node_modules" / ".bin" / "esbuild"
    # as applications do: by package.json and not by this folder's own tsconfig
    options = ["--bundle", "--format=esm", f"--platform={platform}", "--tsconfig-raw={}"]
    options += [f"--alias:{package}={file}" for package, file in (instead or {}).items()]
    command = [str(esbuild), source, *options]
    subprocess.run(
        [*command, f"--outfile={target}", "--log-level=warning"],
        cwd=CLIENTS / "javascript",
        env={**os.environ, "NODE_PATH": str(CLIENTS / "node_modules")},
        check=True,
    )
    return target


def node(program: Path, given: Any, *flags: str, timeout_s: float = 120) -> Any:
    """Run a bundled program; it takes and gives JSON."""
    done = subprocess.run(
        ["node", "--no-warnings", *flags, str(program)],
        input=json.dumps(given), capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@contextlib.contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve the files of a folder to browsers, on a free port, until the block ends; gives the origin."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{site.server_address[1]}"
        finally:
            site.shutdown()
            thread.join()
