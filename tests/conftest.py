"""What every test here shares: the ``needs`` marker and the Hypothesis profiles."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support import javascript, mongo
from tests.support.mongo import dropped_sockets, mongo_server, mongo_url, shared_mongo
from tests.support.nginx import NGINX
from tests.support.redis import redis_server, redis_url, shared_redis

__all__ = [
    "dropped_sockets",
    "mongo_server",
    "mongo_url",
    "redis_server",
    "redis_url",
    "shared_mongo",
    "shared_redis",
]

settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile(
    "ci",
    deadline=None,
    print_blob=True,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "default")


class Program(NamedTuple):
    """Something from outside Python that a test may need."""

    is_usable: Callable[[], bool]
    hint: str


def _strace_works() -> bool:
    """Being installed is not enough: a container may forbid ptrace."""
    strace = shutil.which("strace")
    if strace is None:
        return False
    probe = subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True, check=False)
    return probe.returncode == 0


def _any_of(*commands: str) -> Callable[[], bool]:
    return lambda: any(shutil.which(command) for command in commands)


PROGRAMS = {
    "node": Program(
        javascript.is_usable, "install Node 20 or newer (apt-get install nodejs npm), then make js"
    ),
    "bun": Program(_any_of("bun"), "install Bun (npm install --global bun)"),
    "deno": Program(_any_of("deno"), "install Deno (npm install --global deno)"),
    "strace": Program(_strace_works, "install strace (apt-get install strace) and allow ptrace"),
    "redis": Program(
        lambda: bool(os.environ.get("PARLEY_TEST_REDIS_URL") or shutil.which("redis-server")),
        "install redis-server (apt-get install redis-server)",
    ),
    "nginx": Program(lambda: NGINX is not None, "install nginx (apt-get install nginx-light)"),
    "browser": Program(_any_of("chromium", "chromium-browser"), "install chromium (apt-get install it)"),
    "kubectl": Program(_any_of("kubectl"), "install kubectl; nothing is applied, it only builds"),
    "mongo": Program(mongo.is_usable, mongo.HINT),
}


@cache
def _is_usable(name: str) -> bool:
    return PROGRAMS[name].is_usable()


def _required() -> frozenset[str]:
    names = os.environ.get("PARLEY_TEST_REQUIRE", "")
    return frozenset(name.strip() for name in names.split(",") if name.strip())


def pytest_configure() -> None:
    """Refuse a ``PARLEY_TEST_REQUIRE`` that names nothing we know: it would require nothing, in silence.

    And keep bytecode, whatever the environment says: hundreds of processes would compile all sources anew.
    """
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if unknown := sorted(_required() - PROGRAMS.keys()):
        known = ", ".join(PROGRAMS)
        raise pytest.UsageError(f"PARLEY_TEST_REQUIRE names {', '.join(unknown)}; known are: {known}")


def pytest_collection(session: pytest.Session) -> None:
    """Let the collector rest while thousands of tests are made, all of which stay."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep the collector from walking through them again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Undo what commands do to the log of their process, which here is that of all tests.

    Loggers keep what was configured when they were first used: a later test would not see what they say.
    """
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        for module in list(sys.modules.values()):
            if isinstance(logger := getattr(module, "_log", None), type(structlog.get_logger())):
                vars(logger).pop("bind", None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose program is missing, or fail it where ``PARLEY_TEST_REQUIRE`` names the program."""
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if name not in PROGRAMS:
                pytest.fail(f"needs({name!r}): known are {', '.join(PROGRAMS)}", pytrace=False)
            if _is_usable(name):
                continue
            reason = f"needs {name}: {PROGRAMS[name].hint}"
            if name in _required():
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
