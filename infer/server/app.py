"""The web application: routes, the page's files, and the life of the service behind them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from infer.server.access import Access, Guard
from infer.server.chat import chat
from infer.server.live_api import live
from infer.server.loop import Service

WEB = Path(__file__).resolve().parents[1] / "web"
CHAT_PATH, LIVE_PATHS = "/api/chat", ("/v1/live/sessions", "/live/sessions")
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
          ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; media-src blob:; "
                               "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Permissions-Policy": "microphone=(self)",
    "Cache-Control": "no-cache",
}


def create_app(service: Service, access: Access | None = None, codec_threads: int = 2) -> Starlette:
    """The application for one service, which it starts and stops."""
    # Read once: a request can only name what is in here, so no path leads anywhere else.
    files = {path.name: path.read_bytes() for path in sorted(WEB.iterdir())
             if path.suffix in _TYPES and path.is_file() and not path.is_symlink()}
    pool = ThreadPoolExecutor(codec_threads, "duplex-opus")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()
        pool.shutdown(wait=False, cancel_futures=True)

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            return PlainTextResponse("no such file\n", 404)
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=_HEADERS)

    async def healthz(_: Request) -> Response:
        state = {"status": "draining" if service.draining else "ok", "slots": service.batch.slots,
                 "sessions": len(service.seats), "model": service.batch.name}
        return JSONResponse(state, 503 if service.draining else 200)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type=service.metrics.CONTENT_TYPE)

    async def chat_endpoint(ws: WebSocket) -> None:
        await chat(ws, service, pool)

    async def live_endpoint(ws: WebSocket) -> None:
        await live(ws, service, pool)

    routes = [Route("/", page), Route("/web/{name}", page), Route("/healthz", healthz), Route("/metrics", metrics),
              WebSocketRoute(CHAT_PATH, chat_endpoint), *(WebSocketRoute(path, live_endpoint) for path in LIVE_PATHS)]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, access=access or Access())], lifespan=lifespan)
    app.router.redirect_slashes = False
    app.state.service = service
    return app
