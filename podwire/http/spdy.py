"""SPDY/3.1 frames to bytes and back; no input or output. Kubernetes clients speak it for exec, attach and port-forward.

Control frame: 1 bit 1, 15 bits version (3), 16 bits type, 8 bits flags, 24 bits length. Data frame: 1 bit 0, 31 bits
stream, 8 bits flags, 24 bits length. All header blocks of one direction share one zlib stream that starts with a fixed
dictionary. Source: SPDY Protocol, Draft 3.1 (sections 2.2, 2.6).
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

VERSION = 3
FLAG_FIN = 1
FLAG_UNIDIRECTIONAL = 2
INITIAL_WINDOW = 64 << 10
SETTINGS_INITIAL_WINDOW_SIZE = 7

PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, UNSUPPORTED_VERSION, CANCEL, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(
    1, 8
)
"""RST_STREAM status codes."""

_HEADER_BLOCK_LIMIT = 64 << 10
_FRAME_LIMIT = 1 << 20
_LAST_ID = 0x7FFFFFFF

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TAIL = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    b"403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    b"publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary(words: Iterable[str]) -> bytes:
    texts = [word.replace("_", " ").encode() for word in words]
    return b"".join(struct.pack(">I", len(text)) + text for text in texts) + _TAIL


DICTIONARY = _dictionary(_WORDS.split())
"""What both ends' zlib streams know from the start (section 2.6.10.1); 1,423 bytes, part of the protocol."""

Headers: TypeAlias = dict[str, str]


class SpdyError(Exception):
    """The other end broke the protocol; the session cannot go on."""


@dataclass(frozen=True, slots=True)
class SynStream:
    stream: int
    headers: Headers
    fin: bool = False
    unidirectional: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True)
class SynReply:
    stream: int
    headers: Headers
    fin: bool = False


@dataclass(frozen=True, slots=True)
class HeadersFrame:
    stream: int
    headers: Headers
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Settings:
    values: dict[int, int]


@dataclass(frozen=True, slots=True)
class Ping:
    id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    last_stream: int
    status: int = 0


@dataclass(frozen=True, slots=True)
class WindowUpdate:
    stream: int
    delta: int


@dataclass(frozen=True, slots=True)
class Data:
    stream: int
    data: bytes
    fin: bool = False


Frame: TypeAlias = SynStream | SynReply | HeadersFrame | RstStream | Settings | Ping | GoAway | WindowUpdate | Data


class Codec:
    """One end of a connection: holds the two header streams and the bytes of an unfinished frame."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._buffer = bytearray()

    def encode(self, frame: Frame) -> bytes:
        """The frame's bytes. Frames with headers must be sent in the order in which they were encoded."""
        match frame:
            case Data(stream, data, fin):
                return struct.pack(">II", stream, FLAG_FIN * fin << 24 | len(data)) + data
            case SynStream(stream, headers, fin, unidirectional, priority):
                flags = FLAG_FIN * fin | FLAG_UNIDIRECTIONAL * unidirectional
                return _control(1, flags, struct.pack(">IIBB", stream, 0, priority << 5, 0) + self._pack(headers))
            case SynReply(stream, headers, fin):
                return _control(2, FLAG_FIN * fin, struct.pack(">I", stream) + self._pack(headers))
            case RstStream(stream, status):
                return _control(3, 0, struct.pack(">II", stream, status))
            case Settings(values):
                entries = b"".join(struct.pack(">II", key, value) for key, value in values.items())
                return _control(4, 0, struct.pack(">I", len(values)) + entries)
            case Ping(number):
                return _control(6, 0, struct.pack(">I", number))
            case GoAway(last_stream, status):
                return _control(7, 0, struct.pack(">II", last_stream, status))
            case HeadersFrame(stream, headers, fin):
                return _control(8, FLAG_FIN * fin, struct.pack(">I", stream) + self._pack(headers))
            case WindowUpdate(stream, delta):
                return _control(9, 0, struct.pack(">II", stream, delta))

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes; unknown control frames are passed over. Raises SpdyError."""
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            length = second & 0xFFFFFF
            if length > _FRAME_LIMIT:
                raise SpdyError(f"a frame of {length} bytes is over the limit of {_FRAME_LIMIT}")
            if len(self._buffer) < 8 + length:
                return
            payload = bytes(memoryview(self._buffer)[8 : 8 + length])
            del self._buffer[: 8 + length]
            flags = second >> 24
            if not first >> 31:
                yield Data(first, payload, bool(flags & FLAG_FIN))
                continue
            if (first >> 16) & 0x7FFF != VERSION:
                raise SpdyError(f"SPDY version {(first >> 16) & 0x7FFF}, not {VERSION}")
            try:
                frame = self._decode(first & 0xFFFF, flags, payload)
            except struct.error as error:
                raise SpdyError(f"control frame of type {first & 0xFFFF} is too short") from error
            if frame is not None:
                yield frame

    def _decode(self, kind: int, flags: int, payload: bytes) -> Frame | None:
        fin = bool(flags & FLAG_FIN)
        if kind == 1:
            stream, _, priority, _ = struct.unpack_from(">IIBB", payload)
            headers = self._unpack(payload[10:])
            return SynStream(stream & _LAST_ID, headers, fin, bool(flags & FLAG_UNIDIRECTIONAL), priority >> 5)
        if kind in (2, 8):
            stream = struct.unpack_from(">I", payload)[0] & _LAST_ID
            headers = self._unpack(payload[4:])
            return SynReply(stream, headers, fin) if kind == 2 else HeadersFrame(stream, headers, fin)
        if kind == 4:
            (count,) = struct.unpack_from(">I", payload)
            if len(payload) != 4 + 8 * count:
                raise SpdyError("SETTINGS does not hold as many entries as it says")
            pairs = struct.iter_unpack(">II", payload[4:])
            return Settings({key & 0xFFFFFF: value for key, value in pairs})
        if kind == 6:
            return Ping(struct.unpack_from(">I", payload)[0])
        if kind in (3, 7, 9):
            stream, value = struct.unpack_from(">II", payload)
            stream, value = stream & _LAST_ID, value & _LAST_ID
            if kind == 9:
                return WindowUpdate(stream, value)
            return RstStream(stream, value) if kind == 3 else GoAway(stream, value)
        return None

    def _pack(self, headers: Headers) -> bytes:
        block = bytearray(struct.pack(">I", len(headers)))
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                block += struct.pack(">I", len(text)) + text
        return self._deflate.compress(bytes(block)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def _unpack(self, compressed: bytes) -> Headers:
        try:
            block = self._inflate.decompress(compressed, _HEADER_BLOCK_LIMIT)
        except zlib.error as error:
            raise SpdyError(f"header block does not decompress: {error}") from error
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"header block is larger than {_HEADER_BLOCK_LIMIT} bytes")
        return unpack_headers(block)


def unpack_headers(block: bytes) -> Headers:
    """Name/value pairs of a decompressed block; values that came NUL-separated are joined by ", ". Raises SpdyError."""
    try:
        (count,) = struct.unpack_from(">I", block)
        offset, texts = 4, []
        for _ in range(2 * count):
            (length,) = struct.unpack_from(">I", block, offset)
            text = block[offset + 4 : offset + 4 + length]
            if len(text) != length:
                raise SpdyError("header block ends inside a text")
            texts.append(text.decode("utf-8", "replace"))
            offset += 4 + length
    except struct.error as error:
        raise SpdyError("header block ends too early") from error
    names, values = texts[::2], texts[1::2]
    if len(set(names)) != len(names):
        raise SpdyError("header block names a header twice")
    return {name: value.replace("\0", ", ") for name, value in zip(names, values, strict=True)}


def _control(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, flags << 24 | len(payload)) + payload
