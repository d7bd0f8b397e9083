"""The Ray Serve application on a local cluster: two replicas on the CPU, one of which dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.request

import pytest

for _package, _extra in (("ray", "cluster"), ("uvicorn", "serve"), ("websockets", "serve")):
    pytest.importorskip(_package, reason=f"pip install -e '.[{_extra}]'")
from websockets.exceptions import ConnectionClosed, WebSocketException  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

pytestmark = pytest.mark.live
FRAME = b"\1" + bytes(3840)


def test_two_replicas_and_the_loss_of_one():
    from infer.cluster import Settings, start, stop

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def dial():
        return connect(f"ws://127.0.0.1:{port}/api/chat?audio=pcm", open_timeout=60, compression=None, legacy=True)

    def talk(ws, frames):
        for _ in range(frames):
            time.sleep(0.08)
            ws.send(FRAME)
            while ws.recv(timeout=30)[0] != 1:
                pass

    try:
        handle = start(Settings(fake=True, slots=1), 2, port=port, cpus=0.1)
        clients = [dial(), dial()]
        assert [ws.recv(timeout=60) for ws in clients] == [b"\0", b"\0"]  # each has its own replica: a place for both
        for ws in clients:
            talk(ws, 3)
        refused = dial()  # capacity is slots times replicas, and the third is told so
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(9):
                assert b"place is taken" in refused.recv(timeout=30)
        assert closed.value.rcvd.code == 1013

        processes = set()
        while len(processes) < 2:
            processes.add(handle.pid.remote().result(timeout_s=60))
        os.kill(processes.pop(), signal.SIGKILL)
        fates = []
        for ws in clients:
            try:
                talk(ws, 25)
                fates.append("goes on")
            except ConnectionClosed as lost:
                assert lost.rcvd.code == 1011 and "connect again" in lost.rcvd.reason
                fates.append("was told")
        assert sorted(fates) == ["goes on", "was told"]

        begun = time.monotonic()
        while True:  # the lost replica is replaced, and its place can be taken again
            try:
                new = dial()
                if new.recv(timeout=30) == b"\0":
                    break
            except (WebSocketException, OSError, TimeoutError):
                pass
            assert time.monotonic() - begun < 120
            time.sleep(0.5)
        talk(new, 3)
        talk(clients[fates.index("goes on")], 3)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
            assert json.load(answer)["slots"] == 1
    finally:
        stop()
