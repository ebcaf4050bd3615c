"""Which hosts the service answers for.

The API asks nobody who they are. A web page elsewhere can make its own name point to this machine (DNS rebinding), and
would then read and write here through its visitor's browser; the ``Host`` header still carries that name, and is
refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triptych.foundation.errors import ConfigError
from triptych.serve.errors import problem

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
SHOWN_CHARS = 100

_PATTERN = re.compile(r"\*|(\*\.)?[^\s/:@*\[\]]+|\[[0-9a-fA-F:.]+\]")


class Hosts:
    """Refuses requests whose ``Host`` is none of ours; Starlette's `TrustedHostMiddleware` decides, the words are ours.

    Ours are `LOCAL_HOSTS`, what `allowed` names, and the address at which the connection came in: a page that was
    loaded from this address was loaded from here.

    Args:
        app: the application inside.
        allowed: further names and addresses, without port; ``*.example.com`` for all below a name, ``*`` for any.

    Raises:
        ConfigError: one of them is no host.
    """

    def __init__(self, app: ASGIApp, *, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = [*LOCAL_HOSTS, *check_hosts(allowed)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        is_trusted = False

        async def reached(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal is_trusted
            is_trusted = True

        async def unheard(message: Message) -> None:
            """Take the refusal in Starlette's words."""

        allowed = [*self._allowed, *_reached_at(scope)]
        await TrustedHostMiddleware(reached, allowed_hosts=allowed, www_redirect=False)(scope, receive, unheard)
        await (self._app if is_trusted else _refusal(scope))(scope, receive, send)


def check_hosts(hosts: Sequence[str]) -> list[str]:
    """Return hosts as the ``Host`` header writes them: an IPv6 address in brackets.

    Raises:
        ConfigError: one of them is no host.
    """
    if isinstance(hosts, str):
        raise ConfigError(f"allowed_hosts is a text; put this one host into a list: ['{hosts}'].")
    written = [f"[{host}]" if _is_ipv6(host) else host for host in hosts]
    for host in written:
        if not _PATTERN.fullmatch(host):
            raise ConfigError(
                f"allowed_hosts: '{host}' is no host; give a name or address without scheme and port, "
                "e.g. 'shop.local', '*.shop.local', or '*' for any."
            )
    return written


def _reached_at(scope: Scope) -> list[str]:
    """The address of this machine that the request was sent to, where the server knows it; never a name."""
    server = scope.get("server")
    try:
        address = ipaddress.ip_address(server[0] if server else "")
    except ValueError:  # a name, or the path of a socket
        return []
    if isinstance(address, ipaddress.IPv4Address):
        return [str(address)]
    return [f"[{address}]" if address.ipv4_mapped is None else str(address.ipv4_mapped)]


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _refusal(scope: Scope) -> ASGIApp:
    host = Headers(scope=scope).get("host", "")
    sentence = (
        f"This service does not answer for the host '{host[:SHOWN_CHARS]}'; call it by localhost or by the address it "
        "listens on, or start it with this host among those allowed."
    )
    return problem(HTTPStatus.BAD_REQUEST, sentence)
