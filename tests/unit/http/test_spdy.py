"""SPDY frames and sessions: round trips, bytes in any cut, broken peers, back-pressure, half close."""

import asyncio
import hashlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.http import spdy
from podwire.http.spdysession import SpdySession, SpdyStream

FRAMES: list[spdy.Frame] = [
    spdy.SynStream(1, {"streamtype": "error", "port": "80"}),
    spdy.SynStream(3, {}, fin=True, unidirectional=True, priority=5),
    spdy.SynReply(1, {"a": "b"}, fin=True),
    spdy.HeadersFrame(1, {"x": "é"}),
    spdy.RstStream(3, spdy.CANCEL),
    spdy.Settings({4: 100, spdy.SETTINGS_INITIAL_WINDOW_SIZE: 65536}),
    spdy.Ping(7),
    spdy.GoAway(9, 1),
    spdy.WindowUpdate(1, 4096),
    spdy.Data(1, b""),
    spdy.Data(1, b"hello", fin=True),
]


def test_the_dictionary_is_the_protocols() -> None:
    assert len(spdy.DICTIONARY) == 1423
    assert hashlib.sha256(spdy.DICTIONARY).hexdigest().startswith("51d27341373f923f")


@given(st.lists(st.sampled_from(FRAMES), max_size=12), st.integers(1, 40))
def test_frames_survive_the_wire_however_it_is_cut(frames: list[spdy.Frame], size: int) -> None:
    sender, receiver = spdy.Codec(), spdy.Codec()
    wire = b"".join(sender.encode(frame) for frame in frames)
    got = [frame for at in range(0, len(wire), size) for frame in receiver.feed(wire[at : at + size])]
    assert got == frames


def test_known_bytes() -> None:
    codec = spdy.Codec()
    assert codec.encode(spdy.Ping(1)) == bytes.fromhex("80030006 00000004 00000001")
    assert codec.encode(spdy.Data(5, b"ab", fin=True)) == bytes.fromhex("00000005 01000002 6162")
    assert codec.encode(spdy.RstStream(5, 3)) == bytes.fromhex("80030003 00000008 00000005 00000003")


def test_names_are_lower_case_on_the_wire_and_several_values_are_joined() -> None:
    (frame,) = spdy.Codec().feed(spdy.Codec().encode(spdy.SynReply(1, {"StreamType": "a\0b"})))
    assert frame == spdy.SynReply(1, {"streamtype": "a, b"})


def header_frame(block: bytes) -> bytes:
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    payload = struct.pack(">I", 1) + deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return struct.pack(">HHI", 0x8003, 2, len(payload)) + payload


BROKEN = {
    "other version": bytes.fromhex("80020006 00000004 00000001"),
    "short control frame": bytes.fromhex("80030007 00000004 00000001"),
    "huge frame": struct.pack(">II", 1, 0xFFFFFF),
    "no zlib": bytes.fromhex("80030002 00000008 00000001 deadbeef"),
    "settings that lie": bytes.fromhex("80030004 00000004 00000009"),
    "cut header text": header_frame(struct.pack(">II", 1, 50) + b"abc"),
    "missing headers": header_frame(struct.pack(">I", 1000000)),
    "a header twice": header_frame(struct.pack(">I", 2) + 2 * (struct.pack(">I", 1) + b"a" + struct.pack(">I", 0))),
    "a bomb": header_frame(struct.pack(">II", 1, 1 << 20) + bytes(1 << 20)),
}


@pytest.mark.parametrize("wire", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_peer_is_an_error(wire: bytes) -> None:
    with pytest.raises(spdy.SpdyError):
        list(spdy.Codec().feed(wire))


@given(st.binary(max_size=200))
def test_rubbish_never_breaks_out(data: bytes) -> None:
    try:
        list(spdy.Codec().feed(data))
    except spdy.SpdyError:
        pass


class Wire:
    """Both ends of a connection in memory."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self.sent: list[spdy.Frame] = []
        self.closed = False
        self._codec, self._client = spdy.Codec(), spdy.Codec()

    async def read(self) -> bytes:
        return await self.incoming.get()

    async def write(self, data: bytes) -> None:
        self.sent.extend(self._client.feed(data))

    async def close(self) -> None:
        self.closed = True

    def client(self, *frames: spdy.Frame) -> None:
        for frame in frames:
            self.incoming.put_nowait(self._codec.encode(frame))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_session_opens_reads_writes_and_ends_streams() -> None:
    wire, opened = Wire(), list[SpdyStream]()
    session = SpdySession(wire, opened.append)
    running = asyncio.create_task(session.run())
    wire.client(spdy.SynStream(1, {"port": "80"}), spdy.Data(1, b"abc"), spdy.Data(1, b"d", fin=True), spdy.Ping(1))
    await settle()
    (stream,) = opened
    assert stream.headers == {"port": "80"}
    assert (await stream.read(), await stream.read()) == (b"abcd", b"")
    await stream.write(b"answer")
    await stream.close()
    with pytest.raises(BrokenPipeError):
        await stream.write(b"more")
    assert spdy.SynReply(1, {}) in wire.sent and spdy.Ping(1) in wire.sent
    assert wire.sent[-2:] == [spdy.Data(1, b"answer"), spdy.Data(1, b"", fin=True)]
    wire.incoming.put_nowait(b"")
    await running
    assert session.ended.is_set()


async def test_a_reset_ends_one_stream_only() -> None:
    wire, opened = Wire(), list[SpdyStream]()
    session = SpdySession(wire, opened.append)
    running = asyncio.create_task(session.run())
    wire.client(spdy.SynStream(1, {}), spdy.SynStream(3, {}), spdy.RstStream(1, spdy.CANCEL), spdy.Data(3, b"x"))
    await settle()
    assert await opened[0].read() == b""
    with pytest.raises(BrokenPipeError):
        await opened[0].write(b"x")
    assert await opened[1].read() == b"x"
    running.cancel()


@pytest.mark.parametrize(
    "frames", [[spdy.SynStream(2, {})], [spdy.SynStream(3, {}), spdy.SynStream(1, {})], [spdy.Data(9, b"x")]]
)
async def test_a_peer_that_breaks_the_rules_is_sent_away(frames: list[spdy.Frame]) -> None:
    wire = Wire()
    session = SpdySession(wire, lambda stream: None)
    wire.client(*frames)
    await asyncio.wait_for(session.run(), 5)
    assert isinstance(wire.sent[-1], spdy.GoAway) and wire.sent[-1].status == spdy.PROTOCOL_ERROR


async def test_a_stream_that_nobody_reads_stops_the_reading() -> None:
    wire, opened = Wire(), list[SpdyStream]()
    running = asyncio.create_task(SpdySession(wire, opened.append).run())
    wire.client(spdy.SynStream(1, {}), *[spdy.Data(1, bytes(100_000))] * 10)
    await settle()
    assert wire.incoming.qsize() > 0
    total = 0
    while total < 1_000_000:
        total += len(await opened[0].read())
    assert wire.incoming.qsize() == 0
    assert sum(frame.delta for frame in wire.sent if isinstance(frame, spdy.WindowUpdate)) == 1_000_000
    running.cancel()


async def test_windows_hold_us_back_once_the_peer_counts() -> None:
    wire, opened = Wire(), list[SpdyStream]()
    running = asyncio.create_task(SpdySession(wire, opened.append).run())
    wire.client(spdy.Settings({spdy.SETTINGS_INITIAL_WINDOW_SIZE: 10}), spdy.SynStream(1, {}))
    await settle()
    writing = asyncio.create_task(opened[0].write(b"x" * 25))
    await settle()
    assert sum(len(frame.data) for frame in wire.sent if isinstance(frame, spdy.Data)) == 10
    wire.client(spdy.WindowUpdate(1, 15))
    await asyncio.wait_for(writing, 5)
    assert sum(len(frame.data) for frame in wire.sent if isinstance(frame, spdy.Data)) == 25
    running.cancel()
