"""Where a role listens for HTTP: at a socket that whoever started it has opened already, or at an address of its own.

An open socket is handed over as systemd does it (sd_listen_fds(3)): it is descriptor 3, LISTEN_FDS says how many there
are, and LISTEN_PID whom they are for, so that a process that merely has the same environment does not take them. Who
hands a socket over keeps it open, and its port can be taken by nobody else, not even while the role is started again.
"""

import os
import socket

from runtime.broker import Unreachable

FIRST_DESCRIPTOR = 3
_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """The socket that was handed over, else a new one there; `port` 0 takes a free port. Raises Unreachable."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "0") != "0":
        handed_over = socket.socket(fileno=FIRST_DESCRIPTOR)
        handed_over.set_inheritable(False)
        return handed_over
    return bind(host, port)


def bind(host: str, port: int) -> socket.socket:
    """A new socket that listens there. Raises Unreachable."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        why, _, _ = str(exc.strerror or exc).partition(" (while")  # what socket adds names the address again
        raise Unreachable(f"cannot listen at {host}:{port}: {why}") from exc
