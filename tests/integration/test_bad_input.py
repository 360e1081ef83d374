"""Bytes that no client should send: each gets its typed error or close code, never 1011 or a traceback."""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import orjson
import pytest
import pytest_asyncio

from tests.support.raw import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    RawSocket,
    close_frame,
    frame,
    handshake,
    handshake_request,
    raw_socket,
)
from tests.support.server import running_server, server_process, token

STATE = b'{"type":"state","id":"x","conversation_id":"c1"}'
BAD_UTF8 = b'{"type":"state","id":"\xff"}'
OVERLONG = b"\xc0\xaf"
SURROGATE = b"\xed\xa0\x80"
EURO = "€".encode()
EOF = b""
"""Sent last: the client ends its side."""

MALFORMED: dict[str, tuple[list[bytes], int]] = {
    # 5.1, 5.3: masking
    "unmasked text": ([frame(TEXT, STATE, mask=None)], 1002),
    "unmasked empty text": ([frame(TEXT, mask=None)], 1002),
    "unmasked ping": ([frame(PING, mask=None)], 1002),
    "unmasked close": ([frame(CLOSE, struct.pack("!H", 1000), mask=None)], 1002),
    "unmasked continuation": ([frame(TEXT, STATE[:5], fin=False), frame(CONT, STATE[5:], mask=None)], 1002),
    # 5.2: reserved bits
    **{f"reserved bits {rsv} on text": ([frame(TEXT, STATE, rsv=rsv)], 1002) for rsv in range(1, 8)},
    "reserved bit on ping": ([frame(PING, rsv=1)], 1002),
    "reserved bit on close": ([frame(CLOSE, struct.pack("!H", 1000), rsv=4)], 1002),
    "reserved bit on a continuation": ([frame(TEXT, b"{", fin=False), frame(CONT, b"}", rsv=2)], 1002),
    # 5.2: reserved opcodes
    **{f"reserved opcode {op}": ([frame(op, b"x")], 1002) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    # 5.5: control frames
    "ping of 126 bytes": ([frame(PING, b"x" * 126)], 1002),
    "pong of 126 bytes": ([frame(PONG, b"x" * 126)], 1002),
    "close of 126 bytes": ([frame(CLOSE, struct.pack("!H", 1000) + b"x" * 124)], 1002),
    "ping of 64 KiB": ([frame(PING, b"x" * 65535)], 1002),
    "ping with a huge length and no payload": ([frame(PING, length=2**40)], 1009),
    "fragmented ping": ([frame(PING, b"a", fin=False), frame(CONT, b"b")], 1002),
    "fragmented pong": ([frame(PONG, b"a", fin=False)], 1002),
    "fragmented close": ([frame(CLOSE, struct.pack("!H", 1000), fin=False)], 1002),
    # 5.4: fragmentation
    "continuation of nothing": ([frame(CONT, STATE)], 1002),
    "empty continuation of nothing": ([frame(CONT)], 1002),
    "unfinished continuation of nothing": ([frame(CONT, b"a", fin=False)], 1002),
    "text inside a fragmented text": ([frame(TEXT, b"{", fin=False), frame(TEXT, STATE)], 1002),
    "binary inside a fragmented text": ([frame(TEXT, b"{", fin=False), frame(BINARY, b"x")], 1002),
    "a second beginning": ([frame(TEXT, b"{", fin=False), frame(TEXT, b"}", fin=False)], 1002),
    "close inside a fragmented text": ([frame(TEXT, b"{", fin=False), close_frame(1000)], 1002),
    "continuation after the end": ([frame(TEXT, STATE) + frame(CONT, b"x")], 1002),
    # 5.5.1, 7.4: close frames
    "close with half a code": ([frame(CLOSE, b"\x03")], 1002),
    **{
        f"close code {code}": ([close_frame(code)], 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "close reason that is no UTF-8": ([close_frame(1000, b"\xff\xfe")], 1007),
    "close reason cut inside a character": ([close_frame(1000, EURO[:2])], 1007),
    # 8.1: text is UTF-8
    "text that is no UTF-8": ([frame(TEXT, BAD_UTF8)], 1007),
    "overlong UTF-8": ([frame(TEXT, OVERLONG)], 1007),
    "an encoded surrogate": ([frame(TEXT, SURROGATE)], 1007),
    "beyond Unicode": ([frame(TEXT, b"\xf4\x90\x80\x80")], 1007),
    "a character that is cut off": ([frame(TEXT, EURO[:2])], 1007),
    "no UTF-8 over two fragments": ([frame(TEXT, b"\xe2", fin=False), frame(CONT, b"\x28\xa1")], 1007),
    "a cut character over three fragments": (
        [frame(TEXT, b'"' + EURO[:1], fin=False), frame(CONT, EURO[1:2], fin=False), frame(CONT)], 1007,
    ),
    # sizes
    "a frame of 64 KiB and a byte": ([frame(TEXT, b"x" * 65537)], 1009),
    "a length of 2**63 - 1": ([frame(TEXT, length=2**63 - 1)], 1009),
    "a length of 2**63": ([frame(TEXT, length=2**63, width=8)], 1009),
    "a length of 2**64 - 1": ([frame(TEXT, length=2**64 - 1, width=8)], 1009),
    "fragments that are too large together": (
        [frame(TEXT, b"x" * 40_000, fin=False), frame(CONT, b"x" * 40_000)], 1009,
    ),
    "a fragment that announces too much": ([frame(TEXT, b"x", fin=False), frame(CONT, length=2**32)], 1009),
    # what is no text
    "binary": ([frame(BINARY, STATE)], 1003),
    "empty binary": ([frame(BINARY)], 1003),
    "fragmented binary": ([frame(BINARY, b"a", fin=False), frame(CONT, b"b")], 1003),
    # what is no WebSocket
    "an HTTP request": ([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], 1002),
    "a TLS hello": ([b"\x16\x03\x01\x02\x00\x01\x00" + b"\x00" * 60], 1002),
    "zeros": ([b"\x00" * 64], 1002),
    "ones": ([b"\xff" * 64], 1002),
    # the end, in the middle of something
    "nothing, then the end": ([EOF], 1006),
    "half a header, then the end": ([frame(TEXT, STATE)[:1], EOF], 1006),
    "a header without its mask, then the end": ([frame(TEXT, STATE)[:4], EOF], 1006),
    "half a payload, then the end": ([frame(TEXT, STATE)[:-7], EOF], 1006),
    "half a length, then the end": ([frame(TEXT, b"x" * 300)[:3], EOF], 1006),
    "half a message, then the end": ([frame(TEXT, STATE[:9], fin=False), EOF], 1006),
    "half a close, then the end": ([close_frame(1000)[:3], EOF], 1006),
}  # fmt: skip

assert len(MALFORMED) >= 60

UNUSUAL: dict[str, list[bytes]] = {
    "one byte at a time": [bytes([byte]) for byte in frame(TEXT, STATE)],
    "in fragments of one byte": [
        *[frame(CONT if i else TEXT, STATE[i : i + 1], fin=False) for i in range(len(STATE))], frame(CONT),
    ],
    "with pings between fragments": [
        frame(TEXT, STATE[:9], fin=False), frame(PING, b"p"), frame(PONG, b"q"), frame(CONT, STATE[9:]),
    ],
    "with empty fragments": [frame(TEXT, b"", fin=False), frame(CONT, STATE, fin=False), frame(CONT)],
    "with a length of two bytes where one does": [frame(TEXT, STATE, width=2)],
    "with a length of eight bytes where one does": [frame(TEXT, STATE, width=8)],
    "with a mask of zeros": [frame(TEXT, STATE, mask=b"\x00" * 4)],
    "after pongs that nobody asked for": [frame(PONG), frame(PONG, b"x" * 125), frame(TEXT, STATE)],
    "with a character cut between fragments": [
        frame(TEXT, b'{"type":"state","id":"\xe2\x82', fin=False),
        frame(CONT, b'\xac","conversation_id":"c1"}'),
    ],
}  # fmt: skip


class Crowd(NamedTuple):
    """One server for all of this: what one peer does must not hurt the next."""

    url: str
    log: Path | None = None

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    async def is_empty(self) -> bool:
        """Whether all connections are gone, soon."""
        for _ in range(200):
            with await asyncio.to_thread(urlopen, f"{self.url}/metrics") as answer:
                if b"parley_connections 0.0" in answer.read():
                    return True
            await asyncio.sleep(0.05)
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["asyncio", "uvloop"])
async def crowd(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Crowd]:
    """A server in this process on asyncio, and one as it is in production: a process of its own on uvloop."""
    folder = tmp_path_factory.mktemp("crowd")
    if request.param == "asyncio":
        async with running_server(folder) as running:
            yield Crowd(running.url)
        return
    with server_process(folder) as process:
        yield Crowd(process.url, process.log)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def is_well(server: Crowd) -> None:
    """The server still serves somebody else."""
    async with raw_socket(*server.address, token("well")) as socket:
        await socket.send(frame(TEXT, STATE))
        assert (await socket.read_json())["type"] == "error"


async def send_all(socket: RawSocket, chunks: list[bytes]) -> None:
    for chunk in chunks:
        if chunk == EOF:
            socket.writer.write_eof()
        else:
            try:
                await socket.send(chunk)
            except ConnectionError:
                return


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("greeted", [True, False], ids=["after-hello", "before-hello"])
async def test_malformed_bytes_close_with_their_code(crowd: Crowd, name: str, greeted: bool) -> None:
    chunks, code = MALFORMED[name]
    async with raw_socket(*crowd.address, token() if greeted else None) as socket:
        await send_all(socket, chunks)
        assert await socket.ended() == code
    await is_well(crowd)


@pytest.mark.parametrize("name", UNUSUAL)
async def test_unusual_but_right_frames_are_understood(crowd: Crowd, name: str) -> None:
    async with raw_socket(*crowd.address, token()) as socket:
        await send_all(socket, UNUSUAL[name])
        while (got := await socket.read())[0] == PONG:
            pass
        answer = orjson.loads(got[1])
        assert answer["error"]["code"] == "conversation_not_found"


@pytest.mark.parametrize(
    ("code", "echo"), [(None, 1005), (1000, 1000), (1001, 1001), (3000, 3000), (4999, 4999)]
)
async def test_a_proper_close_is_echoed(crowd: Crowd, code: int | None, echo: int) -> None:
    async with raw_socket(*crowd.address, token()) as socket:
        await socket.send(close_frame(code))
        assert await socket.ended() == echo
        assert await socket.reader.read() == b""


async def test_a_ping_gets_its_payload_back(crowd: Crowd) -> None:
    async with raw_socket(*crowd.address, token()) as socket:
        for payload in (b"", b"x" * 125):
            await socket.send(frame(PING, payload))
            assert await socket.read() == (PONG, payload)


async def test_what_follows_a_close_frame_is_ignored(crowd: Crowd) -> None:
    async with raw_socket(*crowd.address, token()) as socket:
        await socket.send(close_frame(1000) + frame(TEXT, STATE) + b"\xff" * 50)
        assert await socket.ended() == 1000


async def test_a_reset_in_mid_frame_leaves_nothing_behind(crowd: Crowd) -> None:
    for _ in range(20):
        async with raw_socket(*crowd.address, token()) as socket:
            await socket.send(frame(TEXT, STATE)[:-4])
            socket.writer.transport.abort()
    await is_well(crowd)
    assert await crowd.is_empty()


# --- JSON -----------------------------------------------------------------------------------------


def history(fields: bytes) -> bytes:
    return b'{"type":"history","id":"x","conversation_id":"c1",%s}' % fields


def state(frame_id: bytes, conversation_id: bytes) -> bytes:
    return b'{"type":"state","id":%s,"conversation_id":%s}' % (frame_id, conversation_id)


TEXTS: dict[str, tuple[bytes, str, str | None]] = {
    "empty": (b"", "invalid_frame", None),
    "blank": (b"  ", "invalid_frame", None),
    "no JSON": (b"hello", "invalid_frame", None),
    "cut off": (b'{"type":"state"', "invalid_frame", None),
    "trailing comma": (b'{"type":"state",}', "invalid_frame", None),
    "two objects": (STATE + STATE, "invalid_frame", None),
    "a list": (b"[" + STATE + b"]", "invalid_frame", None),
    "a string": (b'"state"', "invalid_frame", None),
    "null": (b"null", "invalid_frame", None),
    "a number": (b"1", "invalid_frame", None),
    "a NUL": (b"\x00", "invalid_frame", None),
    "NaN": (history(b'"limit":NaN'), "invalid_frame", "x"),
    "Infinity": (history(b'"limit":Infinity'), "invalid_frame", "x"),
    "beyond 2**53": (
        history(b'"before":9007199254740993'), "invalid_frame", "x",
    ),
    "an integer of 400 digits": (
        history(b'"before":%s' % (b"9" * 400)), "invalid_frame", "x",
    ),
    "a lone surrogate": (b'{"type":"state","id":"x","conversation_id":"\\ud800"}', "invalid_frame", "x"),
    "33 levels": (b'{"a":' * 33 + b"1" + b"}" * 33, "invalid_frame", None),
    "30,000 levels": (b"[" * 30_000, "invalid_frame", None),
    "30,000 levels of objects": (b'{"a":' * 12_000, "invalid_frame", None),
    "no type": (b'{"id":"x"}', "bad_request", "x"),
    "a type that is none": (b'{"type":"nope","id":"x"}', "unknown_type", "x"),
    "a type that is a number": (b'{"type":7,"id":"x"}', "bad_request", "x"),
    "a type of the server's": (b'{"type":"welcome","id":"x"}', "unknown_type", "x"),
    "no id": (b'{"type":"state","conversation_id":"c1"}', "bad_request", None),
    "an id that is a number": (b'{"type":"state","id":7,"conversation_id":"c1"}', "bad_request", None),
    "an empty id": (b'{"type":"state","id":"","conversation_id":"c1"}', "bad_request", None),
    "an id of 65 characters": (state(b'"%s"' % (b"x" * 65), b'"c1"'), "bad_request", None),
    "an unknown field": (b'{"type":"state","id":"x","conversation_id":"c1","nope":1}', "bad_request", "x"),
    "no conversation": (b'{"type":"state","id":"x"}', "bad_request", "x"),
    "a conversation with a slash": (state(b'"x"', b'"a/b"'), "bad_request", "x"),
    "a conversation of 65": (state(b'"x"', b'"%s"' % (b"c" * 65)), "bad_request", "x"),
    "a conversation with a newline": (state(b'"x"', b'"a\\nb"'), "bad_request", "x"),
    "a limit as text": (history(b'"limit":"5"'), "bad_request", "x"),
    "a limit of 0": (history(b'"limit":0'), "bad_request", "x"),
    "a limit of 101": (history(b'"limit":101'), "bad_request", "x"),
    "a limit of 1.5": (history(b'"limit":1.5'), "bad_request", "x"),
    "no text": (
        b'{"type":"process","id":"x","conversation_id":"c1","content":{"type":"text"}}', "bad_request", "x",
    ),
    "a short key": (
        b'{"type":"reset","id":"x","conversation_id":"c1","idempotency_key":"short"}', "bad_request", "x",
    ),
    "a malformed typing": (b'{"type":"typing","conversation_id":"c1","typing":"yes"}', "bad_request", None),
    "a malformed pong": (b'{"type":"pong","extra":1}', "bad_request", None),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
async def test_a_frame_that_is_none_gets_a_typed_error_and_the_connection_goes_on(
    crowd: Crowd, name: str
) -> None:
    text, code, frame_id = TEXTS[name]
    async with raw_socket(*crowd.address, token()) as socket:
        await socket.send(frame(TEXT, text))
        answer = await socket.read_json()
        assert answer["type"] == "error"
        assert answer["id"] == frame_id
        error = answer["error"]
        assert isinstance(error, dict)
        assert error["code"] == code
        assert len(str(error)) < 1000
        await socket.send(frame(TEXT, STATE))
        assert (await socket.read_json())["id"] == "x"


async def test_the_tenth_unreadable_frame_in_a_minute_closes(crowd: Crowd) -> None:
    async with raw_socket(*crowd.address, token()) as socket:
        await socket.send(*[frame(TEXT, b"nope")] * 10)
        for _ in range(10):
            assert (await socket.read_json())["id"] is None
        assert await socket.ended() == 4501


@pytest.mark.parametrize(
    "text",
    [
        STATE,
        b"nope",
        b"",
        b'{"type":"pong"}',
        b'{"type":"typing","conversation_id":"c1","typing":true}',
        b'{"type":"hello"}',
    ],
)
async def test_a_first_frame_that_is_no_hello_closes_4501(crowd: Crowd, text: bytes) -> None:
    async with raw_socket(*crowd.address) as socket:
        await socket.send(frame(TEXT, text))
        assert await socket.ended() == 4501


# --- handshakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        ["Sec-WebSocket-Version: 12"],
        ["Sec-WebSocket-Key: c2hvcnQ="],
        [f"X-Filler-{number}: x" for number in range(150)],
        ["X-Long: " + "x" * 9000],
    ],
    ids=["version", "two-keys", "150-headers", "a-long-header"],
)
async def test_a_handshake_that_is_none_is_answered_4xx(crowd: Crowd, headers: list[str]) -> None:
    reader, writer, head = await handshake(*crowd.address, *headers)
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.1 426", b"HTTP/1.1 431")), head
    await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await is_well(crowd)


@pytest.mark.parametrize("key", ["", "x", "AAAA", "=" * 24])
async def test_a_wrong_key_is_answered_400(crowd: Crowd, key: str) -> None:
    _, writer, head = await handshake(*crowd.address, key=key)
    assert head.startswith(b"HTTP/1.1 400"), head
    writer.close()


async def test_another_path_is_a_typed_404(crowd: Crowd) -> None:
    reader, writer, head = await handshake(*crowd.address, path="/v1/wss")
    assert head.startswith(b"HTTP/1.1 404"), head
    assert orjson.loads(await reader.read())["error"]["code"] == "not_found"
    writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/status HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
        b"\xff" * 200,
    ],
)
async def test_http_that_is_none_never_gets_a_500(crowd: Crowd, request_: bytes) -> None:
    reader, writer = await asyncio.open_connection(*crowd.address)
    writer.write(request_)
    writer.write_eof()
    async with asyncio.timeout(15):
        answer = await reader.read()
    assert b" 500 " not in answer[:20]
    writer.close()
    await is_well(crowd)


async def test_headers_without_end_are_cut_off(crowd: Crowd) -> None:
    reader, writer = await asyncio.open_connection(*crowd.address)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
    try:
        for number in range(2000):
            writer.write(b"X-%d: %s\r\n" % (number, b"x" * 100))
            await writer.drain()
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    try:
        answer = await asyncio.wait_for(reader.read(100), 5)
    except ConnectionError:
        answer = b"HTTP/1.1 431"
    assert answer.startswith(b"HTTP/1.1 431"), answer
    writer.close()


async def test_a_handshake_behind_a_request_does_not_mix_its_frames_with_the_answer(crowd: Crowd) -> None:
    reader, writer = await asyncio.open_connection(*crowd.address)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + handshake_request())
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert answer.endswith(b'{"status":"ok"}'), answer
    writer.close()
    await is_well(crowd)


async def test_nothing_is_left_of_any_of_these_peers(crowd: Crowd) -> None:
    """Last, after all of the above."""
    assert await crowd.is_empty()
    if crowd.log is not None:
        log = crowd.log.read_text()
        assert "Traceback" not in log
        assert '"level":"error"' not in log
