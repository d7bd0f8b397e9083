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
_LONGEST_PAGE = _HEADER + 255 + 255 * 255
_LONGEST_PACKET_SAMPLES = SAMPLE_RATE * 120 // 1000  # RFC 6716, section 2.1.4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def page_checksum(page: bytes) -> int:
    """Ogg's CRC-32 of a page whose own checksum field counts as zero.

    Ogg's is the polynomial of zlib's, but neither reflected nor inverted, so bits are turned round before and after.
    """
    plain = page[:22] + b"\0\0\0\0" + page[26:]
    reflected = zlib.crc32(plain.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


class PageReader:
    """Cuts a stream of bytes into Ogg pages of one logical stream. Holds less than one page."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._serial: bytes | None = None

    def push(self, data: bytes) -> list[bytes]:
        """Takes bytes, gives the pages that they complete. Raises ClientError for what is no page of it."""
        self._buffer += data
        pages = []
        while (length := self._length()) is not None:
            page = bytes(self._buffer[:length])
            del self._buffer[:length]
            self._check(page)
            pages.append(page)
        return pages

    def _length(self) -> int | None:
        """Length of the page at the front, None while it is not complete."""
        buffer = self._buffer
        if buffer[:4] != _CAPTURE[: len(buffer)] or (len(buffer) > 4 and buffer[4] != 0):
            raise _bad("the sound is not an Ogg stream")
        if len(buffer) < _HEADER or len(buffer) < _HEADER + buffer[26]:
            return None
        length = _HEADER + buffer[26] + sum(buffer[_HEADER : _HEADER + buffer[26]])
        return length if len(buffer) >= length else None

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
        """Takes bytes cut anywhere; gives the sound that they complete. Raises ClientError for anything but Ogg/Opus."""
        parts = []
        for page in self._pages.push(data):
            try:
                pcm = self._reader.append_bytes(page)
            except BaseException as error:  # noqa: BLE001 - sphn's panics are no Exceptions
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                raise _bad("the Opus packets cannot be decoded") from None
            if pcm.size > _LONGEST_PACKET_SAMPLES * 255:
                raise _bad("an Ogg page holds more sound than a page can")
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
