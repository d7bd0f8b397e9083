"""The server's readers on anything at all: a typed error or sound, quickly, and nothing that grows."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("soxr", reason="the server's parts are not installed: pip install -e '.[serve]'")
pytest.importorskip("prometheus_client", reason="the server's parts are not installed: pip install -e '.[serve]'")
import sphn  # noqa: E402

from duplex.testing import tone  # noqa: E402
from infer.server import g711  # noqa: E402
from infer.server.access import Access  # noqa: E402
from infer.server.limits import ClientError  # noqa: E402
from infer.server.live_wire import Complaint, LiveWire, parse_event, parse_start  # noqa: E402
from infer.server.moshi_wire import MoshiWire, Options, PcmReader, PcmWriter, parse_query  # noqa: E402
from infer.server.ogg import OpusReader, PageReader, page_checksum  # noqa: E402

QUICK_SECONDS = 0.5
"""Generous, for a busy machine; a call takes well under a millisecond."""


def opus_pages(frames=6):
    writer = sphn.OpusStreamWriter(24_000)
    return b"".join(writer.append_pcm(tone(0.08)) for _ in range(frames))


STREAM = opus_pages()


def naive_checksum(page: bytes) -> int:
    """Ogg's CRC bit by bit, as RFC 3533 has it."""
    register = 0
    for place, byte in enumerate(page):
        register ^= (0 if 22 <= place < 26 else byte) << 24
        for _ in range(8):
            register = (register << 1) ^ (0x04C11DB7 if register & 0x80000000 else 0)
        register &= 0xFFFFFFFF
    return register


def timed(call, *values):
    begun = time.perf_counter()
    try:
        return call(*values)
    except (ClientError, Complaint) as error:
        assert str(error)
        return None
    finally:
        assert time.perf_counter() - begun < QUICK_SECONDS


@given(st.binary(min_size=27, max_size=300))
@settings(max_examples=200, deadline=None)
def test_the_checksum_is_oggs(page):
    assert page_checksum(page) == naive_checksum(page)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_cuts_do_not_matter(sizes):
    whole, cut = OpusReader().push(STREAM), OpusReader()
    parts, at = [], 0
    for size in [*sizes, len(STREAM)]:
        parts.append(cut.push(STREAM[at : at + size]))
        at += size
    assert np.array_equal(np.concatenate(parts), whole) and len(whole) >= 5 * 1920


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_damaged_streams_end_in_a_typed_error(data):
    stream = bytearray(STREAM)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "drop"])):
            case "flip":
                stream[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del stream[max(1, at) :]
            case "insert":
                stream[at:at] = data.draw(st.binary(max_size=40))
            case "drop":
                del stream[at : at + data.draw(st.integers(1, min(60, len(stream))))]
        if not stream:
            break
    reader = OpusReader()
    pcm = timed(reader.push, bytes(stream))
    if pcm is not None:
        assert pcm.dtype == np.float32 and np.isfinite(pcm).all() and np.abs(pcm).max(initial=0) <= 1
    assert len(reader._pages._buffer) <= 65_307 or pcm is None


@given(st.lists(st.binary(max_size=200), max_size=10))
@settings(max_examples=600, deadline=None)
def test_any_bytes_are_pages_or_an_error(parts):
    reader = PageReader()
    for part in parts:
        if timed(reader.push, part) is None:
            return


@pytest.mark.parametrize("packet", [b"\xff\xff\xff", b"", b"\x03" + bytes(200), bytes(range(250))])
def test_packets_that_are_no_opus(packet):
    """Whole, checked pages around packets that no encoder made."""
    head = STREAM[: STREAM.index(b"OggS", 4)]
    second = STREAM.index(b"OggS", 4)
    tags = STREAM[second : STREAM.index(b"OggS", second + 4)]
    page = bytearray(b"OggS\0\0" + bytes(8) + head[14:18] + b"\2\0\0\0" + bytes(4) + bytes([1, len(packet)]) + packet)
    page[22:26] = page_checksum(bytes(page)).to_bytes(4, "little")
    reader = OpusReader()
    timed(reader.push, head + tags)
    timed(reader.push, bytes(page))


@given(st.one_of(st.binary(max_size=300), st.text(max_size=50)), st.booleans())
@settings(max_examples=600, deadline=None)
def test_moshi_messages(message, pcm):
    sound = timed(MoshiWire(Options(pcm=pcm)).hear, message)
    assert sound is None or (sound.dtype == np.float32 and sound.ndim == 1)


NAMES = st.sampled_from(["audio", "events", "seed", "text_seed", "text_temperature", "audio_temperature", "persona", "policy",
                         "token"])
VALUES = st.one_of(st.text(max_size=20), st.sampled_from(["1", "0", "nan", "pcm", "1e9", "-1", "0.5"]))


@given(st.dictionaries(st.one_of(NAMES, st.text(max_size=8)), VALUES, max_size=4))
@settings(max_examples=600, deadline=None)
def test_query_strings(query):
    options = timed(parse_query, query)
    if options is not None:
        assert options.wish.text_temperature is None or 0 <= options.wish.text_temperature <= 2
        assert options.wish.seed is None or 0 <= options.wish.seed < 2**31


JSON = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
                    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
                    max_leaves=8)
KINDS = st.one_of(st.text(max_size=12), st.sampled_from([
    "session.start", "session.update", "session.close", "session.input_audio.append", "session.input_audio.mute",
    "response.create"]))
EVENTS = st.fixed_dictionaries({"type": st.one_of(KINDS, JSON)}, optional={
    "session": st.one_of(JSON, st.fixed_dictionaries({"model": st.text(max_size=4)}, optional={
        "audio": st.one_of(JSON, st.fixed_dictionaries({"format": JSON})), "instructions": JSON, "input": JSON})),
    "audio": st.one_of(JSON, st.just("AAAA"), st.just("AA==")), "event_id": JSON})


@given(st.one_of(EVENTS.map(json.dumps), st.text(max_size=60), st.binary(max_size=20)))
@settings(max_examples=600, deadline=None)
def test_live_events(message):
    event = timed(parse_event, message)
    if event is None:
        return
    start = timed(parse_start, event)
    if start is not None:
        assert start.rate in (8_000, 16_000, 24_000)
        json.loads(LiveWire(start, "live_x", 1).started(event))
    wire = LiveWire(parse_start({"type": "session.start", "session": {"model": "m"}}), "live_x", 1)
    pcm = timed(wire.hear, event)
    assert pcm is None or np.isfinite(pcm).all()
    answer = timed(wire.answer, event)
    assert answer is None or json.loads(answer)["type"].startswith("session.")


@given(st.lists(st.binary(max_size=9), max_size=12))
@settings(max_examples=200, deadline=None)
def test_plain_samples_survive_any_cut(parts):
    reader = PcmReader()
    heard = np.concatenate([reader.push(part) for part in parts] or [np.zeros(0, np.float32)])
    data = b"".join(parts)
    assert np.array_equal(heard * 32768, np.frombuffer(data[: len(data) & ~1], "<i2"))
    assert len(PcmWriter().push(heard)) == 2 * len(heard)


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_g711_is_its_own_inverse_and_near(kind):
    codes = bytes(range(256))
    levels = g711.decode(kind, codes)
    assert np.array_equal(g711.decode(kind, g711.encode(kind, levels)), levels)  # u-law has two zeros
    pcm = np.linspace(-0.95, 0.95, 4001, dtype=np.float32)
    back = g711.decode(kind, g711.encode(kind, pcm))
    assert np.all(np.abs(back - pcm) <= np.maximum(np.abs(pcm) / 30, 1 / 1000))
    silence = b"\xff" if kind == "audio/pcmu" else b"\xd5"
    assert np.abs(levels).max() == pytest.approx(0.98, abs=0.02) and g711.decode(kind, silence)[0] < 1e-3


@given(st.text(max_size=30), st.one_of(st.none(), st.text(max_size=30)))
@settings(max_examples=600, deadline=None)
def test_any_host_and_origin(host, origin):
    access = Access("secret-secret-secret")
    allowed = access.host_ok(host)
    assert not allowed or host.lower().startswith(("localhost", "127.", "[::1", "[")) or host.strip("[]") != host or "." in host
    access.origin_ok(origin, host)
    assert not access.token_ok(origin)
