"""Entra ID's token endpoint, for the client credentials grant."""

import hashlib
import itertools
import json
import re
import time
from urllib.parse import parse_qs

from fleet.simulator.vendor import HttpAnswer, HttpRequest

_PATH = re.compile(r"^/[A-Za-z0-9.-]+/oauth2/v2\.0/token$")
_REFUSED_SECRET = "invalid"  # noqa: S105 - a secret that holds this word is refused


class Entra:
    """Knows every application, and gives tokens that its API takes until they expire or are revoked."""

    def __init__(self) -> None:
        self.expires_in_s = 3599.0
        self.failure: HttpAnswer | None = None
        """What is answered in place of a token; None: tokens are given."""
        self.forms: list[dict[str, str]] = []
        """The forms of all requests, without their secrets."""
        self._serial = itertools.count(1)
        self._expiries: dict[str, float] = {}

    def answer(self, request: HttpRequest) -> HttpAnswer | None:
        """A token or a refusal; None when the request is for somebody else."""
        if request.method != "POST" or not _PATH.fullmatch(request.path):
            return None
        form = {name: values[0] for name, values in parse_qs(request.body.decode(errors="replace")).items()}
        secret = form.pop("client_secret", "")
        self.forms.append(form)
        if self.failure:
            return self.failure
        if form.get("grant_type") != "client_credentials" or not form.get("scope", "").endswith("/.default"):
            return _refusal(400, "invalid_request", "AADSTS900144: The request body must contain the parameters.")
        if not secret or _REFUSED_SECRET in secret:
            return _refusal(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
        token = f"eyJ0eXAi.{hashlib.sha256(secret.encode()).hexdigest()[:16]}.{next(self._serial)}"
        self._expiries[token] = time.time() + self.expires_in_s
        body = {"token_type": "Bearer", "expires_in": int(self.expires_in_s), "access_token": token}
        return HttpAnswer(200, json.dumps({**body, "ext_expires_in": body["expires_in"]}).encode())

    def takes(self, token: str) -> bool:
        """Whether the API takes this token: it was given here, and neither expired nor was revoked."""
        return self._expiries.get(token, 0) > time.time()

    def revoke_all(self) -> None:
        """From now on the API refuses every token that was given, as after a change of an application's secret."""
        self._expiries.clear()


def is_token(key: str) -> bool:
    """Whether what stands behind `Bearer` is a token of Entra ID (a JWT) and no key."""
    return key.startswith("eyJ")


def _refusal(status: int, error: str, description: str) -> HttpAnswer:
    body = {"error": error, "error_description": f"{description} Trace ID: 0a1b", "error_codes": [7000215]}
    return HttpAnswer(status, json.dumps(body).encode())
