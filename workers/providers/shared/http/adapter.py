"""What the adapters of all vendors do in the same way over HTTP: send a request, read the reply, map errors."""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import msgspec
from pydantic import SecretStr

from contracts.errors import FleetError, NoProvider, ProviderUnavailable
from contracts.rpc import ModelInfo
from contracts.wire import reason
from runtime.egress import MAX_ERROR_BYTES, Egress
from runtime.networks import ForbiddenAddress
from workers.providers.base import Call, Chunk, Finish, NotReached, NotToBeSent, StreamItem, Take, Target
from workers.providers.shared.adapter import Adapter
from workers.providers.shared.errors.redaction import DISGUISED, Secrets
from workers.providers.shared.errors.vendor_errors import Classify, VendorErrors
from workers.providers.shared.http.client import (
    ConnectionBroken,
    HttpClient,
    HttpReply,
    HttpRequest,
    NotConnected,
)
from workers.providers.shared.http.client_pool import ClientPool, Closable, usable_key
from workers.providers.shared.http.reading import receive
from workers.providers.shared.http.time_limits import TimeLimits, lookup_limits
from workers.providers.shared.http.transport import CONNECTION_ERRORS, describe
from workers.providers.shared.json_text import NO_JSON, refuse_too_many
from workers.providers.shared.replies.reader import Reader
from workers.providers.shared.replies.vendor_names import VendorNames, models_with_names
from workers.providers.shared.token_estimates import texts_of

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Closable)
T = TypeVar("T")

MOST_MODELS = 5000
"""The most models of one list that are looked at; aggregators list some hundreds."""
_MODELS_AT_ONCE = 100
"""Models that are looked at without a pause."""


@dataclass(frozen=True, slots=True)
class VendorRequest:
    """What is sent to a vendor for one request."""

    url: str
    headers: Mapping[str, str]
    """All but those of the connection and of the body's length."""
    body: bytes
    warnings: tuple[str, ...] = ()
    """What the caller asked for and could not be sent."""


class AdapterCrashed(Exception):
    """An exception that an adapter does not expect. Its words are those of the exception, without secrets."""


class _Taker:
    """Takes what a reply says, without secrets, and knows what whoever takes it has raised: it is no error of ours."""

    def __init__(self, take: Take, names: VendorNames) -> None:
        self._take = take
        self._names = names
        self.raised: Exception | None = None

    def take(self, item: StreamItem) -> Awaitable[None] | None:
        if not isinstance(item, Chunk) or item.tool_calls:
            item = self._names.without_secrets(item)
        try:
            until_taken = self._take(item)
        except Exception as exc:
            self.raised = exc
            raise
        if until_taken is None:
            return None
        taken = asyncio.ensure_future(until_taken)
        taken.add_done_callback(self._was_taken)
        return taken

    def _was_taken(self, taken: "asyncio.Future[None]") -> None:
        if not taken.cancelled() and isinstance(exc := taken.exception(), Exception):
            self.raised = exc


class HttpAdapter(Adapter, Generic[C]):
    """An adapter that writes and sends completions itself, and looks other things up with clients of the class `C`,
    mostly of the vendor's SDK, one for each base URL, key and tenant.

    A vendor's adapter adds its addresses, the request, the reader of the reply, its errors, and the look-ups. SDKs are
    imported with the first look-up: they take up to a second and dozens of megabytes.
    """

    errors: VendorErrors
    sdk: str | None = None
    """The module in which the clients are."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._http = HttpClient(egress)
        self._clients = ClientPool(self._client)

    async def stream_completion(self, call: Call, take: Take) -> Finish:
        names = VendorNames(self._secrets(call.target), asked=call.model)
        taker = _Taker(take, names)
        try:
            return names.finish_without_secrets(await self._completion(call, taker.take))
        except Exception as exc:
            if exc is taker.raised or isinstance(exc, NotToBeSent):
                raise
            raise self._without_secrets(exc, call.target) from None

    async def get_supported_models(self, target: Target) -> tuple[ModelInfo, ...]:
        listed = await self._listed_models(target)
        secrets, found = self._secrets(target), list[ModelInfo]()
        for at in range(0, min(len(listed), MOST_MODELS), _MODELS_AT_ONCE):
            found += models_with_names(listed[at : at + _MODELS_AT_ONCE], secrets)
            await asyncio.sleep(0)
        if left_out := len(listed) - len(found):
            log.warning("models_left_out", extra={"provider": self.name, "left_out": left_out, "listed": len(listed)})
        return tuple(found)

    async def aclose(self) -> None:
        await self._http.aclose()
        await self._clients.aclose()

    async def _completion(self, call: Call, take: Take) -> Finish:
        target = call.target
        limits = TimeLimits(target.timeouts, time_left_s=call.time_left_s, provider=self.name)
        limits.hold()
        classify = partial(
            self.errors.from_body,
            provider=self.name,
            key=self._secret(target),
            prompt=[text for message in call.request.messages for text in texts_of(message)],
            model=call.model,
        )
        sent = self._request(call)

        async def may_send() -> None:
            await call.may_send()
            limits.start()

        try:
            reply = await limits.wait(self._send(sent, target, may_send, refuse=classify))
        except ForbiddenAddress as exc:
            raise NoProvider(str(exc)) from exc
        except NotConnected as exc:
            host = urlsplit(sent.url).netloc
            raise NotReached(f"{self.name} cannot be used at {host}: {exc}", provider=self.name) from exc
        except ConnectionBroken as exc:
            host = urlsplit(sent.url).netloc
            raise NotReached(f"{self.name} broke the connection at {host}: {exc}", provider=self.name) from exc
        try:
            reader = self._reader(call, sent, headers=reply.headers, classify=classify)
        except BaseException:
            reply.close()
            raise
        return await receive(reply, reader, limits=limits, provider=self.name, take=take)

    async def _send(
        self,
        sent: VendorRequest,
        target: Target,
        may_send: Callable[[], Awaitable[None]],
        *,
        refuse: Callable[..., FleetError],
    ) -> HttpReply:
        """The reply with a status of success to a request. Leave to send is asked for at the last moment, so that
        whoever gives it has the time that a connection takes.

        Raises what `refuse` makes of a reply with another status, what HttpClient raises, and what `may_send` raises.
        """
        request = HttpRequest("POST", sent.url, sent.headers, sent.body)
        reply = await self._http.send(
            request, tenant=target.tenant, connect_s=target.timeouts.connect_s, may_send=may_send
        )
        if self._is_success(reply.status):
            return reply
        try:
            body = await reply.body(most=MAX_ERROR_BYTES, cut=True)
        finally:
            reply.close()
        raise refuse(self.errors.decoded(body, reply.headers), status=reply.status, headers=reply.headers)

    def _is_success(self, status: int) -> bool:
        return 200 <= status < 300

    @abstractmethod
    def _client(self, base_url: str, key: str, tenant: str) -> C:
        """A client that takes nothing from the environment, and never tries again by itself."""

    @abstractmethod
    def _base_url(self, target: Target, *, model: str) -> str:
        """What all addresses of a target begin with; it may depend on the model that is asked for ("": none)."""

    @abstractmethod
    def _request(self, call: Call) -> VendorRequest:
        """The call in the vendor's format. Raises InvalidRequest when that cannot hold it, AuthenticationFailed when no
        header can hold the key."""

    @abstractmethod
    def _reader(self, call: Call, sent: VendorRequest, *, headers: Mapping[str, str], classify: Classify) -> Reader:
        """The reader of the reply that has `headers`."""

    @abstractmethod
    async def _listed_models(self, target: Target) -> Sequence[ModelInfo]:
        """The models that the vendor lists, under whatever names."""

    def _secret(self, target: Target) -> SecretStr | None:
        """The secret by which the vendor knows us; no message may show it."""
        return target.key

    def _secrets(self, target: Target) -> Secrets:
        """All that the vendor was sent to know us by."""
        return Secrets(self._secret(target))

    def _client_key(self, target: Target) -> str:
        """The key with which the client of a target is made."""
        return target.key.get_secret_value() if target.key else ""

    def _usable_key(self, target: Target) -> str:
        """The key of a target; empty without one. Raises AuthenticationFailed when no header can hold it."""
        return usable_key(self._client_key(target), provider=self.name)

    def _raised(self) -> tuple[type[Exception], ...]:
        """What the client of a look-up raises, of which `errors` says what it means."""
        return ()

    @asynccontextmanager
    async def _lease(self, target: Target, *, model: str = "", prompt: Sequence[str] = ()) -> AsyncGenerator[C]:
        """The client of a target, for look-ups. All that is raised while it is used becomes an error of the contract,
        and no exception leaves with a secret in its own words or in those of what caused it."""
        key = self._usable_key(target)
        base_url = self._base_url(target, model=model)
        host = urlsplit(base_url).netloc
        if self.sdk:
            await asyncio.to_thread(import_module, self.sdk)
        try:
            try:
                async with self._clients.client(base_url, key, target.tenant) as client:
                    yield client
            except self._raised() as exc:
                raise self.errors.from_sdk(
                    exc, provider=self.name, key=self._secret(target), host=host, prompt=prompt, model=model
                ) from exc
            except CONNECTION_ERRORS as exc:
                raise NotReached(
                    f"{self.name} broke the connection at {host}: {describe(exc)}", provider=self.name
                ) from exc
        except Exception as exc:  # noqa: BLE001 - raised again, with other words
            raise self._without_secrets(exc, target) from None

    def _without_secrets(self, exc: Exception, target: Target) -> Exception:
        """The error of the contract that an exception is, or AdapterCrashed for a bug, with its traceback; the words of
        either may be the vendor's."""
        words = exc.message if isinstance(exc, FleetError) else reason(exc)
        words = self._secrets(target).redact(words)
        if not isinstance(exc, FleetError):
            return AdapterCrashed(words).with_traceback(exc.__traceback__)
        exc.message = f"{self.name} answered with {DISGUISED}" if words == DISGUISED else words
        exc.args = (exc.message,)
        return exc

    async def _look_up(
        self,
        target: Target,
        ask: Callable[[C], Awaitable[bytes]],
        form: type[T],
        *,
        what: str,
        model: str = "",
        prompt: Sequence[str] = (),
    ) -> T:
        """The answer that `ask` brings, decoded as `form`, for questions that a vendor answers at once.

        `what`: how it should have answered, for the message of the error when it is no such JSON.
        """
        limits = lookup_limits(target.timeouts, provider=self.name)
        async with self._lease(target, model=model, prompt=prompt) as client:
            content = await limits.wait(ask(client))
        return self._decode(content, form, what=what, target=target)

    def _decode(self, content: bytes, form: type[T], *, what: str, target: Target) -> T:
        try:
            refuse_too_many(content)
            return msgspec.json.decode(content, type=form)
        except NO_JSON as exc:
            host = urlsplit(self._base_url(target, model="")).netloc
            raise ProviderUnavailable(
                f"{self.name} did not answer {what} at {host}; is the base_url right?", provider=self.name
            ) from exc


def json_headers(call: Call) -> dict[str, str]:
    """The headers of a JSON request that say nothing of who asks."""
    return {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": user_agent(),
        "X-Client-Request-Id": call.request.id,
    }


@cache
def user_agent() -> str:
    return f"fleet/{version('fleet')}"
