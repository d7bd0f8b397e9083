"""The options of the server's and the client's commands: what cannot be is said in one line before anything is loaded."""

import socket

import pytest

pytest.importorskip("uvicorn", reason="the server's parts are not installed: pip install -e '.[serve]'")
from duplex.errors import InputError  # noqa: E402
from infer import client, serve  # noqa: E402


@pytest.mark.parametrize("arguments, words", [
    (["--host", "0.0.0.0"], "needs a token"),
    (["--host", "192.0.2.1", "--token-file", "{short}"], "16 characters"),
    (["--token-file", "nowhere.txt"], "cannot be read"),
    (["--tls-cert", "{short}"], "go together"),
    (["--tls-cert", "{short}", "--tls-key", "{short}"], "PEM"),
    (["--host", "no.such.host.invalid", "--token-file", "{long}"], "cannot be listened on"),
    (["--port", "{taken}"], "cannot be listened on"),
    (["--port", "70000"], "cannot be listened on"),
    (["--slots", "0"], "less than 1"),
    (["--policy", "rude"], "rude"),
])
def test_wrong_options_of_the_server(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(serve.TOKEN_VARIABLE, raising=False)
    monkeypatch.setattr(serve, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / "short").write_text("tiny")
    (tmp_path / "long").write_text("a-token-that-is-long-enough")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        values = {"short": tmp_path / "short", "long": tmp_path / "long", "taken": taken.getsockname()[1]}
        assert serve.main([argument.format(**values) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert "tiny" not in error.replace("'tiny'", "")  # what is in the token file is not shown


@pytest.mark.parametrize("given, address", [
    ("localhost:8998", "ws://localhost:8998/api/chat"),
    ("http://h:1", "ws://h:1/api/chat"),
    ("https://h/", "wss://h/api/chat"),
    ("wss://h/behind/proxy", "wss://h/behind/proxy/api/chat"),
    ("ws://h/api/chat?seed=3", "ws://h/api/chat?seed=3"),
])
def test_addresses_of_the_client(given, address):
    assert client.chat_url(given) == address


def test_options_of_the_client():
    assert client.chat_url("ws://h", "a guide", ["seed=3"]) == "ws://h/api/chat?seed=3&persona=a+guide"
    for url, options in (("ftp://h", []), ("ws://", []), ("ws://h", ["seed"])):
        with pytest.raises(InputError):
            client.chat_url(url, None, options)


def test_a_client_without_a_server(capsys, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    import numpy as np

    from duplex.audio import write_wav

    write_wav(tmp_path / "user.wav", np.zeros(2400, np.float32))
    assert client.main([f"ws://127.0.0.1:{port}", "--wav", str(tmp_path / "user.wav")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "no conversation" in error and error.count("\n") == 1
