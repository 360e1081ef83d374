"""Standard input: whole lines as they come, whatever it is."""

import asyncio
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.cli.lines import Lines


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard input is a pipe; what is written to this descriptor comes out of it."""
    reads, writes = os.pipe()
    with os.fdopen(reads) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield writes


async def test_lines_come_whole_however_they_were_written(pipe: int) -> None:
    os.write(pipe, b"one\ntw")
    lines = aiter(Lines())
    assert await anext(lines) == "one"
    euro = "€".encode()
    os.write(pipe, b"o " + euro[:1])
    waiting = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    os.write(pipe, euro[1:] + b"\n\nlast")
    assert await waiting == "two €"
    assert await anext(lines) == ""
    os.close(pipe)
    assert [line async for line in lines] == ["last"]


async def test_bytes_that_are_no_text_do_not_end_it(pipe: int) -> None:
    os.write(pipe, b"\xff\n")
    os.close(pipe)
    assert [line async for line in Lines()] == ["\N{REPLACEMENT CHARACTER}"]


async def test_a_file_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script").write_text("a\nb\nc")
    with (tmp_path / "script").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert [line async for line in Lines()] == ["a", "b", "c"]


async def test_without_standard_input_there_are_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert [line async for line in Lines()] == []


async def test_it_can_be_stopped_while_it_waits_and_says_why(pipe: int) -> None:
    lines = Lines()
    waiting = asyncio.ensure_future(anext(aiter(lines)))
    await asyncio.sleep(0)
    lines.stop(io.UnsupportedOperation("gone"))
    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(io.UnsupportedOperation, match="gone"):
        lines.check()
    os.close(pipe)
