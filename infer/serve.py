"""Serve conversations over the network: Moshi's protocol, the OpenAI Live API and a web page, many at once.

    python -m infer.serve                                   # then open http://localhost:8998
    python -m infer.serve --slots 8 --model kyutai/moshiko-pytorch-bf16 --device cuda
    DUPLEX_TOKEN=... python -m infer.serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem

Endpoints: / (page), /api/chat (Moshi), /v1/live/sessions (Live API), /healthz, /metrics. See docs/server.md.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from duplex.audio import read_audio, to_mono
from duplex.checkpoint import LoadedModel, load_model
from duplex.errors import ConfigError, InputError
from duplex.fast.backends import BACKENDS
from duplex.policy import POLICIES, PolicyConfig
from infer import cli

if TYPE_CHECKING:
    from infer.server.host import Server
    from infer.server.metrics import Metrics

TOKEN_VARIABLE = "DUPLEX_TOKEN"
SHORTEST_TOKEN = 16


def parser() -> cli.Parser:
    parser = cli.Parser("infer.serve", "Serve full-duplex conversations over the network.")
    parser.add_argument("--model", default="tiny", metavar="MODEL",
                        help="the embedded 'tiny' model, a checkpoint folder or a hub id (org/name)")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto", help="how the model's steps are computed")
    parser.add_argument("--slots", type=cli.at_least(1), default=2, metavar="N", help="conversations at once")
    parser.add_argument("--prompt-audio", metavar="FILE", help="recording of the voice that the system shall have")
    parser.add_argument("--policy", choices=POLICIES, default=POLICIES[0], help="what happens when a user barges in")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but this machine's own needs a token")
    parser.add_argument("--port", type=cli.at_least(0), default=8998, help="0 takes a free one")
    parser.add_argument("--token-file", metavar="FILE",
                        help=f"file with the token that clients must show; or set the variable {TOKEN_VARIABLE}")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name that this server goes by")
    parser.add_argument("--allow-origin", action="append", default=[], metavar="URL",
                        help="another site whose pages may call, such as https://example.org")
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM), for https and wss")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--drain-seconds", type=cli.number(0, 3600), default=30.0, metavar="S",
                        help="how long running conversations may go on after SIGTERM")
    parser.add_argument("--idle-seconds", type=cli.number(1, 3600), default=20.0, metavar="S",
                        help="how long a client may send no sound")
    parser.add_argument("--session-seconds", type=cli.number(1, 86_400), default=3600.0, metavar="S",
                        help="longest conversation")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    """Serves until a signal comes."""
    server_of(args).run()
    print("stopped", flush=True)


def server_of(args: argparse.Namespace, metrics: Metrics | None = None, on_ready: Callable[[int], None] | None = None,
              model: LoadedModel | None = None) -> Server:
    """The server that the options ask for; each of them is checked before the model is loaded.

    `on_ready` is called with the port in place of the line that tells the user where to go; `model` stands in for the one named.
    """
    try:
        from infer.server.access import Access, is_loopback
        from infer.server.app import create_app
        from infer.server.host import Server
        from infer.server.limits import Limits
        from infer.server.loop import Service
        from infer.server.rows import BatchedSessions
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing; install the server's parts: pip install -e '.[serve]'") from None
    loopback = is_loopback(args.host)
    token = token_of(args)
    if token is None and not loopback:
        raise InputError(f"--host {args.host}: needs a token, since others can reach it; set {TOKEN_VARIABLE} or --token-file")
    certificate = certificate_of(args)
    check_address(args.host, args.port)
    voice = None if args.prompt_audio is None else to_mono(read_audio(args.prompt_audio))
    model = model or load_model(args.model, cli.device_of(args), backend=args.backend)
    limits = Limits(slots=args.slots, idle_seconds=args.idle_seconds, session_seconds=args.session_seconds)
    # Between two switches of threads the interpreter lets 5 ms pass: too long for sockets beside a busy model.
    sys.setswitchinterval(0.001)
    service = Service(BatchedSessions(model, args.slots, voice, policy=PolicyConfig(args.policy)), limits, metrics)
    app = create_app(service, Access(token, tuple(name.lower() for name in args.allow_host), tuple(args.allow_origin), loopback))
    scheme, shown = "https" if certificate else "http", "localhost" if loopback else args.host

    def tell(port: int) -> None:
        print(f"{args.slots} places, model {model.folder.name} ({model.backend}); open {scheme}://{shown}:{port}/"
              f"{' (asks for the token)' if token else ''}; Ctrl-C stops", flush=True)

    return Server(app, args.host, args.port, args.drain_seconds, certificate, on_ready or tell)


def token_of(args: argparse.Namespace) -> str | None:
    """The token from the file or the environment. Raises InputError for one that is missing or easily guessed."""
    if args.token_file is not None:
        try:
            token = Path(args.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{args.token_file}: cannot be read ({getattr(error, 'strerror', None) or 'not text'}); "
                             "give a text file with the token") from None
        source = args.token_file
    else:
        token, source = os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
        if not token:
            return None
    if len(token) < SHORTEST_TOKEN:
        raise InputError(f"{source}: a token needs {SHORTEST_TOKEN} characters or more; make one with "
                         "python -c 'import secrets; print(secrets.token_urlsafe(32))'")
    return token


def certificate_of(args: argparse.Namespace) -> tuple[str, str] | None:
    """The certificate's two files, tried out. Raises InputError when one is missing or they do not fit."""
    if args.tls_cert is None and args.tls_key is None:
        return None
    if args.tls_cert is None or args.tls_key is None:
        raise InputError("--tls-cert and --tls-key go together; give both")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(args.tls_cert, args.tls_key)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "no certificate and key that belong together"
        raise InputError(f"{args.tls_cert}, {args.tls_key}: {reason}; give PEM files") from None
    return args.tls_cert, args.tls_key


def check_address(host: str, port: int) -> None:
    """Raises InputError when nothing can listen there; told before the model is loaded."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{host}:{port}: cannot be listened on ({reason}); give another --host or --port") from None


if __name__ == "__main__":
    sys.exit(main())
