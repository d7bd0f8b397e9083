"""Access: who is let in, what paths lead to, what is written down."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.trust import Options, Promise, tested
from benchmarks.trust.tested import Row

AREA = "access"
_SERVER, _PEERS, _COMMAND = "tests/unit/test_server.py", "tests/unit/test_server_peers.py", "tests/unit/test_serve_cli.py"
ROWS = (
    Row("a foreign Host or Origin is refused, for pages and for WebSockets", "403",
        (f"{_SERVER}::test_foreign_hosts_and_origins_are_forbidden",)),
    Row("no token, no address that others can reach", "refused in one line",
        (f"{_COMMAND}::test_wrong_options_of_the_server",)),
    Row("a wrong token is refused, a right one admitted by header, password or query, and none is ever logged", "401; nothing",
        (f"{_SERVER}::test_the_token_is_wanted_and_never_logged",)),
    Row("tokens are compared in constant time", "`hmac.compare_digest` alone",
        (f"{_PEERS}::test_tokens_are_compared_in_constant_time",)),
    Row("traversal, NUL, encoded and doubled variants of paths", "404", (f"{_SERVER}::test_paths_lead_nowhere_else",)),
    Row("symbolic links among the page's files", "404",
        (f"{_PEERS}::test_a_symbolic_link_among_the_pages_files_leads_nowhere",)),
    Row("a conversation over TLS: certificate checked, TLS 1.1 and plain text refused", "shaken hands",
        (f"{_PEERS}::test_a_conversation_over_tls_with_a_token",)),
)


def run(options: Options) -> Iterator[Promise]:
    """The tests are the long form: there is nothing in them that time would add to."""
    yield from tested.run(AREA, ROWS)
