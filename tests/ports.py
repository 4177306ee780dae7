"""Ports for servers that a test starts later, perhaps several times."""

import atexit
import socket
import sys


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, and that nobody else gets while this process runs.

    A port that was only looked up may be given to any connection that is made until the server listens. Linux gives a
    port to nobody by itself that a socket is bound to, but lets a server listen there that sets SO_REUSEADDR, as
    servers do. Other systems do not, so there the port is only looked up.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    if sys.platform == "linux":
        atexit.register(held.close)
    else:
        held.close()
    return port
