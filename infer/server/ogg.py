"""Ogg/Opus on the wire: whole checked pages in, one stream out.

`sphn` reads and writes the stream, but stays poisoned after bytes that are no Ogg. So the pages are cut out and their
checksums compared here, and only whole ones are handed on: what is no Ogg ends in one typed error, however it was cut
into messages (RFC 3533, section 6; RFC 7845 for Opus in Ogg).
"""

from __future__ import annotations

import zlib

import numpy as np
import sphn

from duplex.units import FRAME_SAMPLES, SAMPLE_RATE
from infer.server.limits import BAD_PAYLOAD, ClientError

_CAPTURE = b"OggS"
_HEADER = 27
_LONGEST_PACKET = 48 * 1275  # bytes; RFC 6716, sections 3.2.1 and 3.2.5: 48 frames of 2.5 ms
_HEADERS = 2  # packets before the sound
MAX_PAGES = 128
"""Pages in one message. Each costs some 50 microseconds, however little it holds, and a browser's holds 20 to 960 ms."""
MAX_MESSAGE_SECONDS = 2.0
"""Sound in one message, counted before any of it is decoded: three bytes may stand for 120 ms."""
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def page_checksum(page: bytes) -> int:
    """Ogg's CRC-32 of a page whose own checksum field counts as zero.

    Ogg's is the polynomial of zlib's, but neither reflected nor inverted, so bits are turned round before and after.
    """
    plain = page[:22] + b"\0\0\0\0" + page[26:]
    reflected = zlib.crc32(plain.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def packet_seconds(start: bytes) -> float:
    """Sound that an Opus packet says it holds in its first two bytes (RFC 6716, section 3.1). Raises ClientError for none.

    The limit of 120 ms a packet is the decoder's to tell.
    """
    if not start:
        raise _bad("an Opus packet is empty")
    mode, code = start[0] >> 3, start[0] & 3
    if mode < 12:
        frame = (0.010, 0.020, 0.040, 0.060)[mode % 4]
    else:
        frame = (0.010, 0.020)[mode % 2] if mode < 16 else (0.0025, 0.005, 0.010, 0.020)[mode % 4]
    if code == 3 and len(start) < 2:
        raise _bad("an Opus packet is damaged")
    return frame * (1, 2, 2, start[1] & 63 if len(start) > 1 else 0)[code]


class PageReader:
    """Cuts a stream of bytes into Ogg pages of one logical stream. Holds less than one page and the size of one packet."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._serial: bytes | None = None
        self._packets = 0  # begun so far
        self._start, self._size = b"", 0  # of the packet that is not complete yet

    def push(self, data: bytes) -> list[bytes]:
        """Takes bytes, gives the pages that they complete. Raises ClientError for what is no page of it, or too much."""
        self._buffer += data
        pages, at, seconds = [], 0, 0.0
        while (length := self._length(at)) is not None:
            page = bytes(self._buffer[at : at + length])
            at += length
            self._check(page)
            pages.append(page)
            seconds += self._seconds(page)
            if seconds > MAX_MESSAGE_SECONDS or len(pages) > MAX_PAGES:
                raise _bad(f"a message holds more than {MAX_MESSAGE_SECONDS:g} s of sound or {MAX_PAGES} pages")
        del self._buffer[:at]
        return pages

    def _length(self, at: int) -> int | None:
        """Length of the page that begins at ``at``, None while it is not complete."""
        head = self._buffer[at : at + _HEADER]
        if head[:4] != _CAPTURE[: len(head)] or (len(head) > 4 and head[4] != 0):
            raise _bad("the sound is not an Ogg stream")
        rest = len(self._buffer) - at
        if len(head) < _HEADER or rest < _HEADER + head[26]:
            return None
        length = _HEADER + head[26] + sum(self._buffer[at + _HEADER : at + _HEADER + head[26]])
        return length if rest >= length else None

    def _seconds(self, page: bytes) -> float:
        """Sound of the packets that end on a page (RFC 3533, section 6, field 7: a lacing value of 255 goes on)."""
        if bool(page[5] & 1) != (self._size > 0):
            raise _bad("an Ogg page is missing")
        seconds, at = 0.0, _HEADER + page[26]
        for lacing in page[_HEADER : _HEADER + page[26]]:
            self._start = (self._start + page[at : at + min(lacing, 2)])[:2]
            self._size += lacing
            at += lacing
            if self._size > _LONGEST_PACKET:
                raise _bad("an Opus packet is longer than one can be")
            if lacing < 255:
                self._packets += 1
                seconds += packet_seconds(self._start) if self._packets > _HEADERS else 0.0
                self._start, self._size = b"", 0
        return seconds

    def _check(self, page: bytes) -> None:
        if page_checksum(page) != int.from_bytes(page[22:26], "little"):
            raise _bad("an Ogg page is damaged: its checksum is wrong")
        serial = page[14:18]
        if self._serial is None:
            if not page[5] & 2 or page[_HEADER + page[26] :][:8] != b"OpusHead":
                raise _bad("the Ogg stream does not begin with Opus headers")
            self._serial = serial
        elif serial != self._serial:
            raise _bad("the Ogg stream changed in the middle; send one stream per connection")


class OpusReader:
    """Ogg/Opus bytes to float32 [S] at 24 kHz."""

    def __init__(self) -> None:
        self._pages = PageReader()
        self._reader = sphn.OpusStreamReader(SAMPLE_RATE)

    def push(self, data: bytes) -> np.ndarray:
        """Takes bytes cut anywhere; gives the sound that they complete.

        Raises ClientError for anything but Ogg/Opus, and for more than a message may hold.
        """
        parts = []
        for page in self._pages.push(data):
            try:
                pcm = self._reader.append_bytes(page)
            except BaseException as error:  # noqa: BLE001 - sphn's panics are no Exceptions
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                raise _bad("the Opus packets cannot be decoded") from None
            parts.append(np.nan_to_num(np.clip(pcm, -1.0, 1.0)))
        return np.concatenate(parts).astype(np.float32, copy=False) if parts else np.zeros(0, dtype=np.float32)


class OpusWriter:
    """Frames of float32 [1920] at 24 kHz to one Ogg/Opus stream."""

    def __init__(self) -> None:
        self._writer = sphn.OpusStreamWriter(SAMPLE_RATE)

    def push(self, pcm: np.ndarray) -> bytes:
        """The bytes that are ready after this frame; the first ones carry the headers."""
        assert pcm.shape == (FRAME_SAMPLES,)
        return self._writer.append_pcm(np.ascontiguousarray(pcm, dtype=np.float32))


def _bad(what: str) -> ClientError:
    return ClientError(BAD_PAYLOAD, f"{what}; send one Ogg/Opus stream at 24 kHz", "bad_audio")
