"""No acknowledgement leaves before the sync that covers it, and no effect begins before its intent is synced.

The recorder watches the server's own system calls. That it can see a careless server is shown by one:
the same server over a store with ``synchronous = OFF``, which passes every kill.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.devices import Device
from tests.support.history import EffectLog, History
from tests.support.server import server_process, token, write_flows
from tests.support.sync_recorder import Trace, command
from tests.support.till import FLOW

PEOPLE: Final = ("ann", "bob", "eve", "joe")
SAYS: Final = ("two tea", "coffee", "3", "what?", "milk", "12", "tea", "1")


async def _talk(url: str, history: History) -> None:
    """Four people talk at once, so that commits share transactions; some of what they say has to queue."""
    devices = [Device(history, name, url, token(name), seed=1) for name in PEOPLE]

    async def talk(device: Device) -> None:
        await device.open(device.name)
        for text in SAYS:
            await asyncio.gather(device.say(device.name, text), device.say(device.name, "tea"))
        await device.close()

    await asyncio.gather(*(talk(device) for device in devices))


async def _record(folder: Path, **env: Any) -> Trace:
    trace, effects = folder / "trace", EffectLog(folder / "effects.log")
    write_flows(folder, {"shop": FLOW})
    with server_process(
        folder, prefix=command(trace), PARLEY_ACTIONS="tests.support.till",
        PARLEY_TEST_EFFECTS=str(effects.path), **env,
    ) as server:  # fmt: skip
        await _talk(server.url, History())
        server.terminate()
    return Trace.read(trace)


@pytest.mark.needs("strace")
@pytest.mark.slow
async def test_no_ack_leaves_and_no_effect_begins_before_its_sync(tmp_path: Path) -> None:
    """Every command's first bytes on a socket, every effect's first line, come after their sync."""
    trace = await _record(tmp_path)
    acked, effects = trace.acked(), trace.begun_effects()
    assert len(acked) == 2 * len(PEOPLE) * len(SAYS)
    assert len(effects) >= 20
    assert list(trace.uncovered(acked)) == []
    assert list(trace.uncovered(effects)) == []


@pytest.mark.needs("strace")
@pytest.mark.slow
@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
async def test_the_recorder_sees_a_store_that_does_not_sync(tmp_path: Path, synchronous: str) -> None:
    """Without ``synchronous = FULL`` nothing is covered, and the recorder says so."""
    trace = await _record(
        tmp_path,
        PARLEY_STORE="tests.support.killable_server:open_store",
        PARLEY_TEST_DATABASE=str(tmp_path / "parley.db"),
        PARLEY_TEST_SYNCHRONOUS=synchronous,
    )
    acked = trace.acked()
    assert len(acked) >= 20
    assert len(list(trace.uncovered(acked))) >= len(acked) * 0.9
    assert list(trace.uncovered(trace.begun_effects())) != []


# --- the recorder by itself -----------------------------------------------------------------------

SYNC_BEGINS: Final = "9 1.1 fdatasync(5</db-wal> <unfinished ...>"
SYNC_RETURNS: Final = "9 1.3 <... fdatasync resumed>) = 0"
ACK: Final = r"""8 1.2 write(7<socket:[123]>, "\201\5{\"command_id\":\"key-0001\"}", 40) = 40"""


def frame(page: str, *, commits: bool) -> list[str]:
    """A frame of the WAL, as strace tells of its two writes."""
    size = r"\0\0\0\7" if commits else r"\0\0\0\0"
    header = rf"\0\0\0\2{size}" + r"\1\1\1\1\2\2\2\2\3\3\3\3\4\4\4\4"
    return [
        f'9 1.0 pwrite64(5</db-wal>, "{header}", 24, 32) = 24',
        f'9 1.0 pwrite64(5</db-wal>, "{page}", 4096, 56) = 4096',
    ]


@pytest.mark.parametrize("last", ["..key-0001..", "another page"])
def test_a_sync_that_returns_in_time_covers_the_ack(last: str) -> None:
    """The key may be in the frame that commits, or in one before it."""
    lines = [*frame("..key-0001..", commits=False), *frame(last, commits=True)]
    trace = Trace.parse([*lines, SYNC_BEGINS, SYNC_RETURNS, ACK])
    assert trace.acked() == {"key-0001": 6}
    assert list(trace.uncovered(trace.acked())) == []


def test_a_sync_that_has_begun_does_not_cover_the_ack() -> None:
    """It must have returned."""
    trace = Trace.parse([*frame("..key-0001..", commits=True), SYNC_BEGINS, ACK, SYNC_RETURNS])
    assert len(list(trace.uncovered(trace.acked()))) == 1


def test_a_sync_that_fails_does_not_cover_the_ack() -> None:
    """What the disk refused is not durable."""
    failed = SYNC_RETURNS.replace("= 0", "= -1 EIO (Input/output error)")
    trace = Trace.parse([*frame("..key-0001..", commits=True), SYNC_BEGINS, failed, ACK])
    assert len(list(trace.uncovered(trace.acked()))) == 1


def test_a_sync_before_the_frame_that_commits_does_not_cover_the_ack() -> None:
    """A sync in the middle of a transaction makes nothing durable."""
    early = [*frame("..key-0001..", commits=False), SYNC_BEGINS, SYNC_RETURNS]
    trace = Trace.parse([*early, *frame("another page", commits=True), ACK])
    assert len(list(trace.uncovered(trace.acked()))) == 1


def test_a_sync_of_another_file_does_not_cover_the_ack() -> None:
    """Only the WAL counts."""
    begins = SYNC_BEGINS.replace("db-wal", "effects.log")
    trace = Trace.parse([*frame("..key-0001..", commits=True), begins, SYNC_RETURNS, ACK])
    assert len(list(trace.uncovered(trace.acked()))) == 1
