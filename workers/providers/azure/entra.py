"""Entra ID tokens for Azure: the client credentials grant, spoken by ourselves.

Source: Microsoft identity platform, "OAuth 2.0 client credentials flow", case "access token request with a shared
secret". Tokens live in memory only.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2
import msgspec
from pydantic import SecretStr, ValidationError

from contracts.errors import AuthenticationFailed, ProviderUnavailable
from contracts.providers import EntraCredentials
from contracts.wire import errors_in_one_line, utc_now
from runtime.egress import Egress
from workers.providers.base import NotReached
from workers.providers.shared.errors.redaction import redact
from workers.providers.shared.errors.retry_after import retry_after_s
from workers.providers.shared.http.transport import CONNECTION_ERRORS, describe
from workers.providers.shared.json_text import NO_JSON

FETCH_S = 20.0
RENEW_BEFORE_S = 300.0
"""A token is renewed so long before it expires, or at half of its life when that is later."""
REPLACE_AGAIN_S = 300.0
"""A token that replaced a refused one is itself replaced no sooner: then it is not the token that is wrong."""
_MOST_RECENT = 3
"""Tokens of one set of credentials that are remembered beside the newest, so that no reply can show them."""

_SCOPE = "https://cognitiveservices.azure.com/.default"
_SCOPES = {
    "login.microsoftonline.us": "https://cognitiveservices.azure.us/.default",
    "login.chinacloudapi.cn": "https://cognitiveservices.azure.cn/.default",
    "login.partner.microsoftonline.cn": "https://cognitiveservices.azure.cn/.default",
}
"""The scopes of the national clouds, by the host of their authority."""


@dataclass(frozen=True, slots=True)
class Token:
    value: str = field(repr=False)
    obtained_at: float
    renew_at: float
    expires_at: float
    replaces_refused: bool = False


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: float | str = 3600


class _Refused(msgspec.Struct):
    error: str = ""
    error_description: str = ""


def credentials_of(key: SecretStr | None) -> EntraCredentials:
    """What the stored key of a provider with `auth: entra_id` holds. Raises AuthenticationFailed."""
    try:
        return EntraCredentials.model_validate_json(key.get_secret_value() if key else "")
    except ValidationError as exc:
        wrong = errors_in_one_line(exc)
    raise AuthenticationFailed(
        f"the stored key for azure is no Entra ID credential ({wrong}): it must be a JSON object "
        "with tenant_id, client_id and client_secret; store it anew with PUT /api/v1/llm-providers/{id}",
        provider="azure",
    )


class Tokens:
    """One token for each set of credentials. Callers that need the same one at the same time share one request."""

    def __init__(self, egress: Egress, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._egress = egress
        self._clock = clock
        self._held: dict[EntraCredentials, Token] = {}
        self._recent: dict[EntraCredentials, list[Token]] = {}
        """The tokens that have not expired, also those that another one has replaced."""
        self._fetches: dict[EntraCredentials, asyncio.Task[Token]] = {}

    async def get(self, credentials: EntraCredentials) -> Token:
        """A token that is still good for a while. Raises AuthenticationFailed or ProviderUnavailable."""
        held = self._held.get(credentials)
        if held and self._clock() < held.renew_at:
            return held
        try:
            return await self._fetch(credentials)
        except ProviderUnavailable:
            if held and self._clock() < held.expires_at:
                return held
            raise

    async def replace(self, credentials: EntraCredentials, refused: Token) -> Token | None:
        """A newer token for the next call, after the vendor refused one; None when it would be refused as well."""
        held = self._held.get(credentials)
        if held and held is not refused:
            return held
        if refused.replaces_refused and self._clock() - refused.obtained_at < REPLACE_AGAIN_S:
            return None
        self._held.pop(credentials, None)
        return await self._fetch(credentials, replaces_refused=True)

    def secrets_of(self, credentials: EntraCredentials) -> list[SecretStr]:
        """What a vendor or Entra ID may know by these credentials: the client's secret and the last tokens."""
        return [credentials.client_secret, *(SecretStr(token.value) for token in self._recent.get(credentials, ()))]

    async def aclose(self) -> None:
        for fetch in list(self._fetches.values()):
            fetch.cancel()
        await asyncio.gather(*self._fetches.values(), return_exceptions=True)
        self._held.clear()
        self._recent.clear()

    async def _fetch(self, credentials: EntraCredentials, *, replaces_refused: bool = False) -> Token:
        if (task := self._fetches.get(credentials)) is None:
            task = asyncio.create_task(self._fetch_once(credentials, replaces_refused), name="entra-token")
            self._fetches[credentials] = task
            task.add_done_callback(lambda done: self._fetched(credentials, done))
        # One fetch serves all that wait for it: whoever gives up must not end it for the others.
        return await asyncio.shield(task)

    def _fetched(self, credentials: EntraCredentials, task: asyncio.Task[Token]) -> None:
        del self._fetches[credentials]
        now = self._clock()
        self._held = {whose: token for whose, token in self._held.items() if now < token.expires_at}
        for whose, tokens in list(self._recent.items()):
            if not (known := [token for token in tokens if now < token.expires_at]):
                del self._recent[whose]
            else:
                self._recent[whose] = known[-_MOST_RECENT:]
        if not task.cancelled() and task.exception() is None:
            self._held[credentials] = task.result()
            self._recent.setdefault(credentials, []).append(task.result())

    async def _fetch_once(self, credentials: EntraCredentials, replaces_refused: bool) -> Token:
        authority = urlsplit(credentials.authority)
        host = authority.netloc
        url = f"{credentials.authority.rstrip('/')}/{credentials.tenant_id}/oauth2/v2.0/token"
        form = {
            "grant_type": "client_credentials",
            "client_id": credentials.client_id,
            "client_secret": credentials.client_secret.get_secret_value(),
            "scope": _SCOPES.get(authority.hostname or "", _SCOPE),
        }
        asked_at = self._clock()
        try:
            async with asyncio.timeout(FETCH_S), self._egress.client() as client:
                response = await client.post(url, data=form)
        except TimeoutError as exc:
            raise NotReached(f"Entra ID at {host} sent no token within {FETCH_S:g} s", provider="azure") from exc
        except CONNECTION_ERRORS as exc:
            raise NotReached(f"Entra ID cannot be used at {host}: {describe(exc)}", provider="azure") from exc
        if not response.is_success:
            raise _refusal(response, credentials, host)
        try:
            granted = msgspec.json.decode(response.content, type=_Granted)
            lives_s = float(granted.expires_in)
        except (*NO_JSON, ValueError) as exc:
            raise NotReached(f"Entra ID at {host} answered without a token", provider="azure") from exc
        return Token(
            value=granted.access_token,
            obtained_at=asked_at,
            renew_at=asked_at + max(lives_s - RENEW_BEFORE_S, lives_s / 2),
            expires_at=asked_at + lives_s,
            replaces_refused=replaces_refused,
        )


def _refusal(
    response: httpx2.Response, credentials: EntraCredentials, host: str
) -> AuthenticationFailed | ProviderUnavailable:
    """The error for a token that was not granted. Entra ID refuses credentials with 400 and 401 (`invalid_client`,
    `unauthorized_client`, an unknown tenant)."""
    try:
        said = msgspec.json.decode(response.content, type=_Refused)
    except NO_JSON:
        said = _Refused()
    status = response.status_code
    words = f"Entra ID at {host} answered {status} {said.error}: {said.error_description or 'no reason given'}"
    message = redact(words, key=credentials.client_secret)
    if said.error == "temporarily_unavailable" or status in (408, 429) or not 400 <= status < 500:
        wait_s = retry_after_s(response.headers, now=utc_now())
        return NotReached(message, provider="azure", status=status, retry_after_s=wait_s)
    return AuthenticationFailed(message, provider="azure", status=status)
