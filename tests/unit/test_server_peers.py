"""Peers that vanish, stall or come over TLS: nothing of them stays behind."""

from __future__ import annotations

import shutil
import socket as sockets
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the server's parts are not installed: pip install -e '.[serve]'")
pytest.importorskip("websockets", reason="the server's parts are not installed: pip install -e '.[serve]'")
from serving import serving  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from infer.server.access import Access  # noqa: E402
from infer.server.limits import Limits  # noqa: E402

UPGRADE = (b"GET /api/chat?audio=pcm HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")


@pytest.fixture(scope="module")
def hasty():
    with serving(Limits(slots=2, request_seconds=0.6, ping_seconds=0.5)) as running:
        yield running


@pytest.mark.parametrize("said", [b"", b"GET /heal", UPGRADE[:90], b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he"])
def test_a_peer_that_falls_silent_in_its_request_is_cut_off(hasty, said):
    with sockets.create_connection(("127.0.0.1", hasty.port), timeout=20) as raw:
        raw.sendall(said)
        heard = b""
        try:
            while data := raw.recv(4096):
                heard += data
        except ConnectionResetError:
            pass
        assert (b'"status"' in heard) is (b"healthz" in said)  # what was asked in full was answered


def test_a_peer_that_falls_silent_in_its_conversation_gives_its_place_back(hasty):
    with sockets.create_connection(("127.0.0.1", hasty.port), timeout=20) as raw:
        raw.sendall(UPGRADE)
        while not hasty.service.seats:
            time.sleep(0.01)
        assert hasty.wait_free(20) < 20  # it answers no ping; with the server's own settings a ping comes every 4 s


def test_a_conversation_outlives_the_time_for_a_request(hasty):
    with connect(hasty.url() + "?audio=pcm", compression=None) as ws:
        assert ws.recv(timeout=20) == b"\0"
        time.sleep(1.0)
        ws.ping()
        assert len(hasty.service.seats) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    paths = [str(folder / name) for name in ("certificate.pem", "key.pem")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
                    "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", paths[0],
                    "-keyout", paths[1]], check=True, capture_output=True)
    return paths


def test_a_conversation_over_tls_with_a_token(certificate):
    token = {"Authorization": "Bearer a-token-for-this-test"}
    with serving(access=Access("a-token-for-this-test"), certificate=tuple(certificate)) as running:
        trusting = ssl.create_default_context(cafile=certificate[0])
        url = running.url().replace("ws://127.0.0.1", "wss://localhost") + "?audio=pcm"
        with connect(url, ssl=trusting, compression=None, additional_headers=token) as ws:
            assert ws.recv(timeout=20) == b"\0"
            ws.send(b"\1" + bytes(3840))
            assert ws.recv(timeout=20)[0] == 1
            assert ws.socket.version() in ("TLSv1.2", "TLSv1.3")
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(url, ssl=ssl.create_default_context(), compression=None)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, OSError)):
            old.wrap_socket(sockets.create_connection(("127.0.0.1", running.port), timeout=20))
        with sockets.create_connection(("127.0.0.1", running.port), timeout=20) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")  # plain words get no answer
            try:
                assert b"HTTP/1.1 200" not in raw.recv(4096)
            except ConnectionResetError:
                pass


def test_tokens_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr("infer.server.access.hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    access = Access("the-right-token-of-this")
    assert access.token_ok("the-right-token-of-this") and not access.token_ok("the") and not access.token_ok(None)
    assert [shown for shown, _ in compared] == [b"the-right-token-of-this", b"the", b""]  # no shortcut goes round it
    source = Path(sys.modules["infer.server.access"].__file__).read_text()
    assert "self.token ==" not in source and "== self.token" not in source


def test_a_symbolic_link_among_the_pages_files_leads_nowhere(tmp_path, monkeypatch):
    import http.client

    from infer.server import app

    (tmp_path / "index.html").write_text("a page")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "link.js").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "folder.js").mkdir()
    monkeypatch.setattr(app, "WEB", tmp_path)
    with serving() as running:
        def status(path):
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
            connection.request("GET", path)
            return connection.getresponse().status

        assert [status(path) for path in ("/", "/web/link.js", "/web/secret.txt", "/web/folder.js", "/web/folder.js/x")] == [
            200, 404, 404, 404, 404]
