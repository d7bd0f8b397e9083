"""The server over real sockets: protocols, refusals, bad clients, access, and what neighbours notice of them."""

import base64
import http.client
import json
import socket as sockets
import struct
import threading
import time

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the server's parts are not installed: pip install -e '.[serve]'")
pytest.importorskip("websockets", reason="the server's parts are not installed: pip install -e '.[serve]'")
import sphn  # noqa: E402
from serving import dial, rest, serving  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from duplex.testing import tone  # noqa: E402
from duplex.units import FRAME_SAMPLES  # noqa: E402
from infer.server.access import Access  # noqa: E402
from infer.server.limits import Limits  # noqa: E402

PCM = (tone(0.08) * 32767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def server():
    with serving(Limits(slots=3, idle_seconds=2.0)) as running:
        yield running


@pytest.fixture(autouse=True)
def every_slot_comes_back(request):
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").wait_free()


class Neighbour(threading.Thread):
    """A client that talks all the time and counts what it gets."""

    def __init__(self, running, seconds=1.5):
        super().__init__()
        self.running, self.frames, self.sent = running, round(seconds / 0.08), 0
        self.got = 0
        self.start()

    def run(self):
        with dial(self.running) as ws:
            assert ws.recv(timeout=20) == b"\0"
            for _ in range(self.frames):
                ws.send(b"\1" + PCM)
                self.sent += 1
                while True:
                    message = ws.recv(timeout=20)
                    if message[0] == 1:
                        self.got += (len(message) - 1) // (2 * FRAME_SAMPLES)
                        break


def test_moshi_over_opus_gives_a_frame_for_a_frame(server):
    writer, reader = sphn.OpusStreamWriter(24_000), sphn.OpusStreamReader(24_000)
    with dial(server, "") as ws:
        assert ws.recv(timeout=20) == b"\0"
        samples, text = 0, b""
        for number in range(12):
            data = writer.append_pcm(tone(0.08))
            ws.send(b"\1" + data[: len(data) // 2])
            ws.send(b"\1" + data[len(data) // 2 :])  # cut anywhere
            while samples < (number - 1) * FRAME_SAMPLES:
                message = ws.recv(timeout=20)
                if message[0] == 1:
                    samples += len(reader.append_bytes(message[1:]))
                elif message[0] == 2:
                    text += message[1:]
        assert text.decode()  # whole characters
    server.wait_free(1.0)


def test_same_seed_same_answer_whatever_the_neighbours(server):
    def talk():
        with dial(server, "audio=pcm&seed=5&events=1") as ws:
            assert ws.recv(timeout=20) == b"\0" and json.loads(ws.recv(timeout=20)[1:])["seed"] == 5
            got = []
            for _ in range(6):
                ws.send(b"\1" + PCM)
                while (message := ws.recv(timeout=20))[0] != 4:
                    got.append(message)
            return got

    first = talk()
    other = Neighbour(server, 0.8)
    assert talk() == first
    other.join()
    assert other.got == other.sent


def test_the_client_too_many_is_refused_in_words_at_once(server):
    held = [dial(server) for _ in range(3)]
    for ws in held:
        assert ws.recv(timeout=20) == b"\0"
    begun = time.monotonic()
    messages, closed = rest(dial(server))
    assert closed.rcvd.code == 1013 and "3 places are taken" in closed.rcvd.reason
    assert messages == [b"\5" + closed.rcvd.reason.encode()] and time.monotonic() - begun < 5
    messages, closed = rest(connect(server.url("/v1/live/sessions"), compression=None))
    assert closed.rcvd.code == 1013 and json.loads(messages[0])["error"]["code"] == "full"
    for ws in held:
        ws.close()
    server.wait_free()
    with dial(server) as ws:
        assert ws.recv(timeout=20) == b"\0"


GARBAGE = [
    ("", [b"\1" + b"this is no Ogg at all"], 1007, "Ogg"),
    ("", [b"\1OggS\0\2" + bytes(20) + b"\1\5hello"], 1007, "checksum"),
    ("", ["some text"], 1007, "text message"),
    ("", [b""], 1007, "empty"),
    ("", [b"\1" + bytes(300 * 1024)], 1009, "307201"),
    ("audio=flac", [], 1008, "audio='flac'"),
    ("text_temperature=hot", [], 1008, "text_temperature='hot'"),
    ("audio_temperature=-1", [], 1008, "audio_temperature='-1'"),
    ("seed=99999999999999999999999", [], 1008, "seed"),
    ("policy=rude", [], 1008, "learned"),
    ("colour=red", [], 1008, "unknown option 'colour'"),
    ("persona=" + "word%20" * 900, [], 1007, "persona"),
]


@pytest.mark.parametrize("query, messages, code, words", GARBAGE, ids=[str(n) for n in range(len(GARBAGE))])
def test_bad_input_ends_that_session_in_words(server, query, messages, code, words):
    neighbour = Neighbour(server, 0.3)
    with dial(server, query) as ws:
        for message in messages:
            ws.send(message)
        heard, closed = rest(ws)
    assert closed.rcvd.code == code and words in closed.rcvd.reason, closed
    assert heard[-1][0] == 5 and words in heard[-1][1:].decode()
    neighbour.join()
    assert neighbour.got == neighbour.sent == neighbour.frames
    assert server.wait_free() < 1.0


def test_truncated_ogg_waits_and_then_is_idle(server):
    page = sphn.OpusStreamWriter(24_000).append_pcm(tone(0.08))
    with dial(server, "") as ws:
        assert ws.recv(timeout=20) == b"\0"
        ws.send(b"\1" + page[:-7])
        _, closed = rest(ws)
    assert closed.rcvd.code == 1008 and "2 seconds" in closed.rcvd.reason


def test_a_client_that_only_chats_is_idle(server):
    with dial(server) as ws:
        begun = time.monotonic()
        while time.monotonic() - begun < 6:
            try:
                ws.send(b"\3\0")
                time.sleep(0.3)
            except ConnectionClosed as closed:
                assert closed.rcvd.code == 1008 and "no sound" in closed.rcvd.reason
                break
        else:
            raise AssertionError("never closed")


def test_a_flood_is_dropped_counted_and_ended():
    with serving(Limits(slots=2, give_up_seconds=0.4)) as running:
        neighbour = Neighbour(running, 1.0)
        with dial(running) as ws:
            assert ws.recv(timeout=20) == b"\0"
            ends, deepest, begun = [], 0, time.monotonic()
            reader = threading.Thread(target=lambda: ends.append(rest(ws)[1]))
            reader.start()
            try:
                while time.monotonic() - begun < 20:
                    for _ in range(20):
                        ws.send(b"\1" + PCM)
                    deepest = max([deepest, *running.call(lambda: [seat.waiting for seat in running.service.seats])])
            except ConnectionClosed:
                pass
            reader.join(20)
            assert ends[0].rcvd.code == 1008 and "real time" in ends[0].rcvd.reason
            assert deepest <= 5  # 400 ms
        neighbour.join()
        assert neighbour.got == neighbour.sent
        assert b'duplex_dropped_frames_total{kind="ahead"}' in running.service.metrics.text()


def test_a_client_that_does_not_read_is_ended_and_costs_little():
    with serving(Limits(slots=2, outbox_frames=5, ping_seconds=1.0)) as running:
        raw = sockets.create_connection(("127.0.0.1", running.port))
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.sendall(b"GET /api/chat?audio=pcm HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        frame = b"\1" + PCM
        masked = b"\x82\xfe" + struct.pack(">H", len(frame)) + bytes(4) + frame
        begun = time.monotonic()
        while not running.service.seats:
            time.sleep(0.01)
        try:
            while running.service.seats:  # never reads, not even pings
                assert time.monotonic() - begun < 15
                raw.sendall(masked)
                time.sleep(0.02)
        except OSError:
            pass
        running.wait_free(5)
        ended = running.service.metrics.ended
        assert ended.labels("unread")._value.get() + ended.labels("left")._value.get() == 1
        raw.close()


def test_abrupt_disconnects_leak_nothing():
    import os

    with serving(Limits(slots=2)) as running:
        def vanish(kind):
            raw = sockets.create_connection(("127.0.0.1", running.port))
            if kind != "connect":
                request = (b"GET /api/chat?audio=pcm HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
                raw.sendall(request[:60] if kind == "handshake" else request)
                if kind == "greeted":
                    raw.recv(300)
                    raw.sendall(b"\x82\xfe" + struct.pack(">H", 3841) + bytes(4) + b"\1" + PCM[:100])
            raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a goodbye
            raw.close()

        vanish("greeted")
        running.wait_free()
        time.sleep(0.3)
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        tasks = running.call(lambda: len(__import__("asyncio").all_tasks(running.loop)))
        for _ in range(15):
            for kind in ("connect", "handshake", "upgrade", "greeted"):
                vanish(kind)
        running.wait_free()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and running.call(lambda: len(__import__("asyncio").all_tasks(running.loop))) > tasks:
            time.sleep(0.1)
        assert running.call(lambda: len(__import__("asyncio").all_tasks(running.loop))) <= tasks
        if before:
            assert len(os.listdir("/proc/self/fd")) <= before + 1
        with dial(running) as ws:
            assert ws.recv(timeout=20) == b"\0"


def start_live(server, **session):
    ws = connect(server.url("/v1/live/sessions"), compression=None, open_timeout=30)
    ws.send(json.dumps({"type": "session.start", "event_id": "e1", "session": {"model": "duplex", **session}}))
    return ws


@pytest.mark.parametrize("kind, rate, width", [("audio/pcm", 24_000, 2), ("audio/pcm", 16_000, 2), ("audio/pcmu", 8_000, 1),
                                               ("audio/pcma", 8_000, 1)])
def test_live_api_in_every_format(server, kind, rate, width):
    with start_live(server, audio={"format": {"type": kind, "rate": rate}}) as ws:
        started = json.loads(ws.recv(timeout=20))
        assert started["type"] == "session.started" and started["client_event_id"] == "e1"
        assert started["session"]["audio"]["format"] == {"type": kind, "rate": rate}
        heard = 0
        for number in range(8):
            silence = base64.b64encode(bytes(rate * width * 80 // 1000)).decode()
            ws.send(json.dumps({"type": "session.input_audio.append", "audio": silence}))
            while heard < (number - 1) * rate * width * 80 // 1000:
                event = json.loads(ws.recv(timeout=20))
                if event["type"] == "session.output_audio.delta":
                    heard += len(base64.b64decode(event["delta"]))
        ws.send(json.dumps({"type": "session.close", "event_id": "bye"}))
        events, closed = rest(ws)
    last = json.loads(events[-1])
    assert last["type"] == "session.closed" and last["reason"] == "close_requested" and last["client_event_id"] == "bye"
    assert closed.rcvd.code == 1000 and last["usage"]["seconds"] > 0.3


def test_live_api_answers_commands_and_complains_in_words(server):
    with start_live(server) as ws:
        ws.recv(timeout=20)
        for event, kind, words in [
            ({"type": "session.input_audio.mute", "event_id": "m"}, "session.input_audio.muted", '"m"'),
            ({"type": "session.input_audio.unmute"}, "session.input_audio.unmuted", ""),
            ({"type": "session.update", "session": {}}, "session.updated", ""),
            ({"type": "session.commentary.append", "content": "x"}, "error", "not supported"),
            ({"type": "session.nonsense"}, "error", "unknown event"),
            ({"type": "session.input_audio.append", "audio": 7}, "error", "base64"),
            ({"type": "session.input_audio.append", "audio": "%%%"}, "error", "base64"),
        ]:
            ws.send(json.dumps(event))
            answer = ws.recv(timeout=20)
            assert json.loads(answer)["type"] == kind and words in answer
        ws.send("{this is no JSON")
        events, closed = rest(ws)
    assert closed.rcvd.code == 1007 and "JSON" in closed.rcvd.reason and json.loads(events[-1])["type"] == "session.closed"


@pytest.mark.parametrize("first, code, words", [
    (b"binary", 1003, "binary"), ("[]", 1007, "no event"),
    ('{"type":"session.input_audio.append","audio":""}', 1007, "session.start"),
    ('{"type":"session.start","session":{}}', 1007, "session.model"),
    ('{"type":"session.start","session":{"model":"m","speed":2}}', 1007, "speed"),
    ('{"type":"session.start","session":{"model":"m","audio":{"format":{"type":"audio/mp3"}}}}', 1007, "format"),
    ("[" * 100_000, 1007, "JSON"),
])
def test_live_api_that_does_not_begin(server, first, code, words):
    with connect(server.url("/v1/live/sessions"), compression=None) as ws:
        ws.send(first)
        events, closed = rest(ws)
    assert closed.rcvd.code == code and words in closed.rcvd.reason and json.loads(events[0])["type"] == "error"


def get(running, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer


def test_page_health_and_metrics(server):
    status, body, answer = get(server, "/")
    assert status == 200 and b"duplex" in body and "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert get(server, "/web/app.js")[0] == 200
    state = json.loads(get(server, "/healthz")[1])
    assert state["status"] == "ok" and state["slots"] == 3
    metrics = get(server, "/metrics")[1]
    assert b"duplex_slots 3.0" in metrics and b"duplex_step_seconds_bucket" in metrics


@pytest.mark.parametrize("path", [
    "/web/../serve.py", "/web/..%2fserve.py", "/web/%2e%2e/serve.py", "/web/%2e%2e%2fserve.py", "/web/..%5cserve.py",
    "/web//app.js", "/web/app.js%00.html", "/web/.", "/web/..", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
    "/web/%252e%252e%252fserve.py",
    "/web/style.css/", "/web/app.js/../app.js", "/etc/passwd", "/WEB/app.js", "/web/app.js;x", "/web/", "/.git/config"])
def test_paths_lead_nowhere_else(server, path):
    status, body, _ = get(server, path)
    assert status == 404 and b"root:" not in body and b"import" not in body


@pytest.mark.parametrize("headers, status", [
    ({"Host": "localhost:1"}, 200), ({"Host": "127.0.0.1"}, 200), ({"Host": "[::1]:8998"}, 200), ({"Host": "evil.example"}, 403),
    ({"Host": "localhost.evil.example"}, 403), ({"Host": "192.168.1.5"}, 403), ({"Host": "user@localhost"}, 403),
    ({"Host": ""}, 403), ({"Host": "localhost:x"}, 403), ({"Host": "localhost", "Origin": "http://localhost"}, 200),
    ({"Host": "localhost", "Origin": "http://evil.example"}, 403),
    ({"Host": "localhost:80", "Origin": "http://localhost:81"}, 403),
    ({"Host": "localhost", "Origin": "null"}, 403), ({"Host": "localhost", "Origin": "file://localhost"}, 403)])
def test_foreign_hosts_and_origins_are_forbidden(server, headers, status):
    assert get(server, "/healthz", **headers)[0] == status
    if status == 403 and "Origin" in headers:
        with pytest.raises(InvalidStatus) as refused:
            connect(server.url(), additional_headers={"Origin": headers["Origin"]}, compression=None)
        assert refused.value.response.status_code == 403


def test_the_token_is_wanted_and_never_logged(caplog, capfd):
    secret = "s3cret-token-of-the-test"
    with serving(access=Access(secret)) as running:
        for headers, good in [({}, False), ({"Authorization": "Bearer wrong"}, False),
                              ({"Authorization": f"Bearer {secret}x"}, False),
                              ({"Authorization": "Basic %%%"}, False), ({"Authorization": f"Bearer {secret}"}, True),
                              ({"Authorization": "Basic " + base64.b64encode(f":{secret}".encode()).decode()}, True)]:
            assert get(running, "/metrics", **headers)[0] == (200 if good else 401)
            if good:
                with dial(running, additional_headers=headers) as ws:
                    assert ws.recv(timeout=20) == b"\0"
                running.wait_free()
            else:
                with pytest.raises(InvalidStatus) as refused:
                    dial(running, additional_headers=headers)
                assert refused.value.response.status_code == 401
        with dial(running, f"audio=pcm&token={secret}") as ws:
            assert ws.recv(timeout=20) == b"\0"
        assert get(running, "/")[0] == 200 and get(running, "/healthz")[0] == 200  # no secrets there
    out = "".join(capfd.readouterr()) + caplog.text
    assert secret not in out


def test_a_stop_signal_lets_sessions_end_and_admits_nobody():
    with serving(drain_seconds=1.0) as running:
        with dial(running) as ws:
            assert ws.recv(timeout=20) == b"\0"
            running.call(lambda: running.server.handle_exit(15, None))
            time.sleep(0.2)
            assert get(running, "/healthz")[0] == 503
            messages, closed = rest(dial(running))
            assert closed.rcvd.code == 1001 and "shutting down" in closed.rcvd.reason
            ws.send(b"\1" + PCM)
            assert ws.recv(timeout=20)[0] == 1  # still served
            messages, closed = rest(ws)
            assert closed.rcvd.code == 1001 and messages[-1][0] == 5


def test_a_failing_model_ends_sessions_but_not_the_server(monkeypatch):
    with serving() as running:
        with dial(running) as ws:
            assert ws.recv(timeout=20) == b"\0"
            with monkeypatch.context() as broken:
                broken.setattr(running.service.batch._engine, "step", lambda *_, **__: 1 / 0)
                ws.send(b"\1" + PCM)
                _, closed = rest(ws)
            assert closed.rcvd.code == 1011 and "internal error" in closed.rcvd.reason
        running.wait_free()
        Neighbour(running, 0.3).join()
        assert running.service.metrics.crashes._value.get() == 1


def test_silence_is_a_valid_frame(server):
    with dial(server) as ws:
        assert ws.recv(timeout=20) == b"\0"
        ws.send(b"\1" + np.zeros(FRAME_SAMPLES, "<i2").tobytes())
        assert ws.recv(timeout=20)[0] == 1
