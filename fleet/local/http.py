"""HTTP requests to servers on this machine: past any proxy, and an answer is an answer whatever its status."""

import asyncio
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. The names of `headers` are found in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    """Neither raises for a status nor follows a redirect."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _AnyStatus)


async def ask(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout_s: float,
) -> Answer:
    """Asks in a thread, which ends by itself after `timeout_s` of silence, also when the caller has been cancelled.

    Raises OSError when nobody answers, or not in HTTP.
    """
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)  # noqa: S310 - ours

    def blocking() -> Answer:
        try:
            with _OPENER.open(request, timeout=timeout_s) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except HTTPException as exc:
            raise ConnectionError(f"{request.full_url} did not answer in HTTP: {exc!r}") from exc

    return await asyncio.to_thread(blocking)
