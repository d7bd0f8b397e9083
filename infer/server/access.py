"""Who may talk to the server: Host, Origin and token are checked before anything else is looked at.

A page of another site can make a visitor's browser call a server on the visitor's own machine. The Host header tells
such a call when it came by a name that was pointed here (DNS rebinding), the Origin header tells it otherwise.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = ("/healthz",)
PAGE_PATHS = ("/", "/web/")
"""The page and its files hold no secret; the page asks for the token that its connection needs."""


@dataclass(frozen=True)
class Access:
    """The rules of one server."""

    token: str | None = None
    """What every client must show; None lets everybody in, which only a loopback address allows."""
    hosts: tuple[str, ...] = ()
    """Names that this server goes by, beside loopback names and plain addresses."""
    origins: tuple[str, ...] = ()
    """Origins of other sites that may call, as https://name:port."""
    loopback: bool = True
    """Is the server bound to this machine alone? Then only loopback names are its own."""

    def host_ok(self, host: str | None) -> bool:
        """Is this Host header one of the server's names?"""
        name = _host_name(host or "")
        if not name:
            return False
        if name in ("localhost", *self.hosts):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback  # a name that was pointed here is never a plain address

    def origin_ok(self, origin: str | None, host: str | None) -> bool:
        """May a page of this origin call? Only browsers send the header."""
        if origin is None or origin in self.origins:
            return True
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and bool(parts.netloc) and parts.netloc.lower() == (host or "").lower()

    def token_ok(self, shown: str | None) -> bool:
        """Is this the token? Takes the same time for every wrong one."""
        if self.token is None:
            return True
        return hmac.compare_digest((shown or "").encode(errors="surrogatepass"), self.token.encode())


def shown_token(connection: HTTPConnection) -> str | None:
    """The token that a client shows: `Authorization: Bearer` or Basic (its password), or `?token=`."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return None
    return parse_qs(connection.url.query, max_num_fields=64).get("token", [None])[0]


class Guard:
    """ASGI middleware that answers 403 to foreign Host and Origin headers, and 401 without the token."""

    def __init__(self, app: ASGIApp, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await refusal(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})  # before the accept: the peer sees a 403

    def refusal(self, scope: Scope) -> PlainTextResponse | None:
        """The answer to a request that is not let in, None for one that is."""
        connection = HTTPConnection(scope)
        host, origin = connection.headers.get("host"), connection.headers.get("origin")
        if not self.access.host_ok(host):
            return PlainTextResponse("this server does not go by that name; see --allow-host\n", 403)
        if not self.access.origin_ok(origin, host):
            return PlainTextResponse("pages of that origin may not call this server; see --allow-origin\n", 403)
        path = scope["path"]
        is_open = scope["type"] == "http" and (path in OPEN_PATHS or path == PAGE_PATHS[0] or path.startswith(PAGE_PATHS[1]))
        try:
            token = None if is_open else shown_token(connection)
        except ValueError:
            token = None
        if not is_open and not self.access.token_ok(token):
            return PlainTextResponse("show the server's token: Authorization: Bearer TOKEN\n", 401,
                                     {"WWW-Authenticate": "Bearer"})
        return None


def is_loopback(host: str) -> bool:
    """Does a server bound to `host` listen on this machine alone?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """Name in a Host header, in lower case without its port; "" when it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
        good = parts.hostname is not None and parts.netloc == host and parts.username is None
        return (parts.hostname or "") if good else ""
    except ValueError:
        return ""
