"""The server on a Ray cluster: one replica of the model per GPU (or per so many CPUs), each with its own slots.

    python -m infer.cluster --replicas 2 --slots 4                       # on this machine
    python -m infer.cluster --address auto --gpus 1 --replicas 8 --model kyutai/moshiko-pytorch-bf16 --device cuda

A WebSocket goes to the replica with the fewest conversations and stays there: its state lives in that replica. When all
are full the client is refused in words. When a replica dies its clients' connections are closed, Ray starts another, and
the conversations of the other replicas do not notice.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from duplex.checkpoint import load_model
from duplex.errors import ConfigError, InputError
from duplex.fast.backends import BACKENDS
from duplex.policy import POLICIES, PolicyConfig
from infer import cli

NAME = "duplex"
_SPARE = 8
"""Requests beyond the slots that a replica takes: the page, health, metrics, and clients to be refused in words."""


@dataclass(frozen=True)
class Settings:
    """What each replica is made of; goes to it by value."""

    model: str = "tiny"
    device: str = "cpu"
    backend: str = "auto"
    slots: int = 2
    policy: str = POLICIES[0]
    threads: int = 1
    token: str | None = None
    hosts: tuple[str, ...] = ()
    loopback: bool = True
    fake: bool = False
    """A tiny random model in place of `model`, for tests."""


class Replica:
    """An ASGI application that builds itself where it runs: model, slots and endpoints of `infer.serve`."""

    def __init__(self, settings: Settings):
        self.settings, self._app = settings, None

    def build(self) -> Any:
        """The application, made once in this process."""
        if self._app is None:
            import torch

            from infer.server.access import Access
            from infer.server.app import create_app
            from infer.server.limits import Limits
            from infer.server.loop import Service
            from infer.server.rows import BatchedSessions

            s = self.settings
            torch.set_num_threads(s.threads)
            sys.setswitchinterval(0.001)
            if s.fake:
                from duplex.testing import fake_loaded_model

                model = fake_loaded_model()
            else:
                model = load_model(s.model, s.device, backend=s.backend)
            service = Service(BatchedSessions(model, s.slots, policy=PolicyConfig(s.policy)), Limits(slots=s.slots))
            self._app = create_app(service, Access(s.token, s.hosts, (), s.loopback))
        return self._app

    def add_exception_handler(self, *handler: Any) -> None:
        """Serve adds its own to every application."""
        self.build().add_exception_handler(*handler)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.build()(scope, receive, send)


def application(settings: Settings, replicas: int, gpus: float = 0.0, cpus: float = 1.0) -> Any:
    """The Serve application. Raises ConfigError when Ray is missing."""
    serve = _ray()[1]
    from ray.serve.config import RequestRouterConfig

    deployment = serve.deployment(
        name=NAME, num_replicas=replicas, max_ongoing_requests=settings.slots + _SPARE,
        ray_actor_options={"num_gpus": gpus, "num_cpus": cpus}, graceful_shutdown_timeout_s=30.0, health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        request_router_config=RequestRouterConfig(request_router_class="infer.cluster_router:FewestConversations"))

    @serve.ingress(Replica(settings))
    class Conversations:
        """One copy of the model."""

        def pid(self) -> int:
            """Which process this replica is."""
            return os.getpid()

    return deployment(Conversations).bind()


def start(settings: Settings, replicas: int, host: str = "127.0.0.1", port: int = 8998, gpus: float = 0.0, cpus: float = 1.0,
          address: str | None = None) -> Any:
    """Starts (or joins) a Ray cluster and runs the application there; gives its handle when the replicas are ready."""
    ray, serve = _ray()
    # Ray makes its workers very nice (15): beside any other load a frame of 80 ms would come late.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="error",
                 runtime_env={"env_vars": {"PYTHONPATH": root, "OMP_NUM_THREADS": str(settings.threads),
                                           "OMP_WAIT_POLICY": "PASSIVE"}})
    from starlette.middleware import Middleware

    from infer.server.last_words import LastWords

    serve.start(http_options={"host": host, "port": port, "request_timeout_s": None, "middlewares": [Middleware(LastWords)]})
    return serve.run(application(settings, replicas, gpus, cpus), name=NAME, route_prefix="/")


def stop() -> None:
    """Ends the application and this process's part of the cluster."""
    ray, serve = _ray()
    serve.shutdown()
    ray.shutdown()


def parser() -> cli.Parser:
    parser = cli.Parser("infer.cluster", "Serve full-duplex conversations from a Ray cluster.")
    parser.add_argument("--model", default="tiny", metavar="MODEL",
                        help="the embedded 'tiny' model, a checkpoint folder (on every node) or a hub id (org/name)")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto", help="how the model's steps are computed")
    parser.add_argument("--replicas", type=cli.at_least(1), default=1, metavar="N", help="copies of the model")
    parser.add_argument("--slots", type=cli.at_least(1), default=2, metavar="N", help="conversations at once in each")
    parser.add_argument("--gpus", type=cli.number(0), default=0.0, metavar="N", help="GPUs of one replica")
    parser.add_argument("--cpus", type=cli.number(0), default=1.0, metavar="N", help="CPUs of one replica")
    parser.add_argument("--policy", choices=POLICIES, default=POLICIES[0], help="what happens when a user barges in")
    parser.add_argument("--address", metavar="ADDRESS", help="of a running Ray cluster ('auto' finds it), else one starts here")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but this machine's own needs a token")
    parser.add_argument("--port", type=cli.at_least(1), default=8998)
    parser.add_argument("--token-file", metavar="FILE", help="file with the token, as for infer.serve")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name that this server goes by")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    """Starts the replicas and waits for a signal."""
    from infer.serve import check_address, token_of

    _ray()
    from infer.server.access import is_loopback

    token, loopback = token_of(args), is_loopback(args.host)
    if token is None and not loopback:
        raise InputError(f"--host {args.host}: needs a token, since others can reach it; set DUPLEX_TOKEN or --token-file")
    check_address(args.host, args.port)
    settings = Settings(args.model, args.device, args.backend, args.slots, args.policy, args.threads, token,
                        tuple(name.lower() for name in args.allow_host), loopback)
    start(settings, args.replicas, args.host, args.port, args.gpus, args.cpus, args.address)
    print(f"{args.replicas} replicas with {args.slots} places each; open http://{args.host}:{args.port}/; Ctrl-C stops",
          flush=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    stop()
    print("stopped", flush=True)


def _ray() -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing; install the cluster's parts: pip install -e '.[serve,cluster]'") from None
    return ray, serve


if __name__ == "__main__":
    sys.exit(main())
