"""What integration tests share: servers, and a log without surprises."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from tests.support.server import RunningServer, running_server


@pytest.fixture(autouse=True)
def log_without_errors(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[list[structlog.typing.EventDict]]:
    """Fail a test that made the server log an error or a traceback, unless it is marked to."""
    with structlog.testing.capture_logs() as lines:
        yield lines
    if "expects_errors" in request.fixturenames:
        return
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    bad = [record.getMessage() for record in records if record.levelno >= logging.ERROR or record.exc_info]
    bad += [str(line) for line in lines if line["log_level"] in ("error", "critical") or line.get("exc_info")]
    assert not bad, bad


@pytest.fixture
def expects_errors() -> None:
    """Asked for by a test whose server is meant to log errors."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A server over memory, with the flow ``greet``."""
    async with running_server(tmp_path) as running:
        yield running
