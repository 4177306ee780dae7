"""The admin API as the commands call it, with the standard library, which is there wherever a command is."""

import json
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any

from pydantic import SecretStr

_TIMEOUT_S = 30
_TRIES = 4
"""How often a call is tried that the API refuses as one too many."""
_LONGEST_WAIT_S = 10


class AdminRefused(Exception):
    """The admin API cannot be reached, or said no. The message says why. `status` None: there was no answer."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AdminApi:
    """Blocking calls of `/api/v1`; a coroutine runs them in a thread. `path` is what follows after that, with a query.

    Each answers with the JSON that came, None when nothing did, and raises AdminRefused.
    """

    def __init__(self, url: str, token: SecretStr) -> None:
        self._url = url.rstrip("/")
        self._token = token

    def get(self, path: str) -> Any:
        return self._call("GET", path)

    def exists(self, path: str) -> bool:
        """Whether there is something at `path`."""
        try:
            self._call("GET", path)
        except AdminRefused as exc:
            if exc.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    def post(self, path: str, body: Any) -> Any:
        return self._call("POST", path, body)

    def put(self, path: str, body: Any) -> Any:
        return self._call("PUT", path, body)

    def delete(self, path: str) -> None:
        self._call("DELETE", path)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the operator names the address
            f"{self._url}/api/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._token.get_secret_value()}",
                "Content-Type": "application/json",
            },
        )
        try:
            return _answer(request)
        except urllib.error.HTTPError as exc:
            with exc:
                problem = _problem(exc.read())
            raise AdminRefused(f"{method} {path}: {exc.code} {problem}", status=exc.code) from None
        except (OSError, ValueError) as exc:
            why = getattr(exc, "reason", exc)
            raise AdminRefused(f"the admin API at {self._url} cannot be used: {why}") from None


def _answer(request: urllib.request.Request) -> Any:
    """The answer's JSON; of one request too many, tries again after the time that the API names."""
    tries = 0
    while True:
        tries += 1
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as exc:
            if exc.code != HTTPStatus.TOO_MANY_REQUESTS or tries == _TRIES:
                raise
            with exc:
                time.sleep(min(float(exc.headers.get("Retry-After", 1)), _LONGEST_WAIT_S))


def _problem(body: bytes) -> str:
    """RFC 9457 problem details in one line; empty when the body holds none."""
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    return " ".join(str(found[key]) for key in ("title", "detail") if found.get(key)) if isinstance(found, dict) else ""
