"""Listening: the address is taken before anything is loaded, so that what is wrong with it is told in one sentence."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from triptych.foundation.errors import ConfigError
from triptych.serve.runtime import Runtime

BACKLOG = 2048
GRACE_S = 5
"""How long answers under way may take to finish after Ctrl-C."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Take an address.

    Args:
        host: name or address of this machine; a name may stand for several addresses.
        port: 0 for any that is free.

    Returns:
        One listening socket per address, all of one port.

    Raises:
        ConfigError: the port is taken or not ours to take, or the host is none of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise ConfigError(f"'{host}' is no host that this machine knows; give an address of it with --host.") from None
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in dict.fromkeys((one[0], one[4]) for one in found):
        try:
            sockets.append(_listen(family, (address[0], port, *address[2:])))
        except OSError as error:
            failure = error
            if error.errno == errno.EADDRINUSE:  # another service would answer at one of the host's addresses
                break
            continue
        port = sockets[-1].getsockname()[1]
    if failure is not None and (not sockets or failure.errno == errno.EADDRINUSE):
        for one in sockets:
            one.close()
        raise ConfigError(_sentence(failure, host=host, port=port))
    return sockets


def url(host: str, sockets: Sequence[socket.socket]) -> str:
    """Return the address to open in a browser on this machine.

    Args:
        host: as it was asked for.
        sockets: from `listen`.
    """
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (listens on all; a browser wants one)
    return f"http://{f'[{name}]' if ':' in name else name}:{sockets[0].getsockname()[1]}"


def run(app: FastAPI, *, sockets: Sequence[socket.socket]) -> None:
    """Answer requests until Ctrl-C, which is how a service ends and no error. SIGHUP has it open its run again.

    Args:
        app: the service.
        sockets: from `listen`; closed at the end.

    Raises:
        Exception: what kept the engine from being opened. A service that never gets ready ends.
    """
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S
    )
    server = uvicorn.Server(config)
    runtime: Runtime = app.state.runtime
    runtime.when_failed(lambda: setattr(server, "should_exit", True))
    try:
        with _reloading_on_hangup(runtime, server):
            server.run(sockets=list(sockets))
    except KeyboardInterrupt:
        pass  # uvicorn has stopped in good order, and raises the signal again for those who want to know
    finally:
        for one in sockets:
            one.close()
    if runtime.failure is not None:
        raise runtime.failure


@contextmanager
def _reloading_on_hangup(runtime: Runtime, server: uvicorn.Server) -> Iterator[None]:
    """Take SIGHUP as the wish for the newest run, as services do; a terminal that was closed still ends its service."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    had_terminal = _has_terminal()

    def handle(signum: int, frame: object) -> None:
        if not had_terminal or _has_terminal():
            runtime.reload()
        elif before is not signal.SIG_IGN:  # not under nohup
            server.should_exit = True

    before = signal.signal(signal.SIGHUP, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _listen(family: int, address: tuple[str | int, ...]) -> socket.socket:
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(address)
        taken.listen(BACKLOG)
    except OSError:
        taken.close()
        raise
    return taken


def _sentence(error: OSError, *, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use; choose another with --port, or --port 0 for any that is free."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Port {port} of {host} needs rights that you do not have; choose one from 1024 up with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"'{host}' is no address of this machine; give one with --host, or leave it out for 127.0.0.1."
    return f"Port {port} of {host} cannot be opened ({error.strerror}); choose another with --port."
