"""The expression engine is loaded without the command line of its package."""

import subprocess
import sys

PROGRAM = """
import sys
import server.app
from server.engine.flow.native import extension
assert "prompt_toolkit" not in sys.modules, "the server imports a library for terminals"
import cel
assert cel.compile is extension().compile
print(cel.evaluate("size(name) + 1", {"name": "ann"}))
"""


def test_a_server_needs_no_terminal_and_an_action_may_import_the_package_all_the_same() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("4\n", "")
