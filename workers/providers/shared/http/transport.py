"""What goes wrong on the network when something is looked up with httpx2, as the SDKs do it."""

import ssl

import anyio
import httpx2

from contracts.wire import reason

CONNECTION_ERRORS = (httpx2.RequestError, httpx2.StreamError, ssl.SSLError, anyio.EndOfStream, OSError)
"""What httpx2 raises when a connection breaks; the last three are not wrapped by it in every place."""


def describe(exc: BaseException) -> str:
    """What went wrong on the network, in one line; the innermost cause says it best."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return reason(exc)
