"""What the adapters of all vendors do in the same way over HTTP: send a request, read the reply, map errors."""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec
from pydantic import SecretStr

from contracts.errors import FleetError, ProviderUnavailable
from contracts.rpc import ModelInfo
from contracts.wire import reason
from runtime.egress import Egress, before_sending
from workers.providers.base import Call, Chunk, NotReached, NotToBeSent, StreamItem, Target
from workers.providers.shared.adapter import Adapter
from workers.providers.shared.errors.redaction import DISGUISED, Secrets
from workers.providers.shared.errors.vendor_errors import Classify, VendorErrors
from workers.providers.shared.http.client_pool import ClientPool, Closable, usable_key
from workers.providers.shared.http.reading import read
from workers.providers.shared.http.time_limits import TimeLimits, lookup_limits
from workers.providers.shared.http.transport import CONNECTION_ERRORS, Httpx2Reply, describe
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

    path: str
    """Behind the base URL."""
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Beside those that the client sends by itself."""
    warnings: tuple[str, ...] = ()
    """What the caller asked for and could not be sent."""


class AdapterCrashed(Exception):
    """An exception that an adapter does not expect. Its words are those of the exception, without secrets."""


class HttpAdapter(Adapter, Generic[C]):
    """An adapter whose vendor is reached with clients of the class `C`, one for each base URL, key and tenant.

    A vendor's adapter adds its addresses, the request and how it is sent, the reader of the reply, and its errors.
    """

    errors: VendorErrors
    raised: tuple[type[Exception], ...]
    """What the SDK raises, or the HTTP client in its place; `errors` says what it means."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._clients = ClientPool(self._client)

    async def stream_completion(self, call: Call) -> AsyncGenerator[StreamItem]:
        target = call.target
        limits = TimeLimits(target.timeouts, time_left_s=call.time_left_s, provider=self.name)
        prompt = [text for message in call.request.messages for text in texts_of(message)]
        classify = partial(
            self.errors.from_body, provider=self.name, key=self._secret(target), prompt=prompt, model=call.model
        )
        async with self._lease(target, model=call.model, prompt=prompt) as client:
            sent = self._request(call)
            response = await self._when_it_may_be_sent(client, call, sent, limits)
            async with aclosing(Httpx2Reply(response, self._egress.flow(target.tenant))) as reply:
                reader = self._reader(call, sent, headers=reply.headers, classify=classify)
                names = VendorNames(self._secrets(target), asked=call.model)
                async with aclosing(read(reply, reader, limits=limits, provider=self.name)) as items:
                    async for item in items:
                        yield item if isinstance(item, Chunk) and not item.tool_calls else names.without_secrets(item)

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
        await self._clients.aclose()

    async def _when_it_may_be_sent(
        self, client: C, call: Call, sent: VendorRequest, limits: TimeLimits
    ) -> httpx2.Response:
        """What `_send` returns. Leave to send is asked for at the last moment, so that whoever gives it has the time
        that an SDK takes over a request. Raises what it raises, also where an SDK makes a connection error of it."""
        refused: Exception | None = None

        async def ask() -> None:
            nonlocal refused
            try:
                await call.may_send()
            except Exception as exc:
                refused = exc
                raise
            limits.start()

        limits.hold()
        token = before_sending.set(ask)
        try:
            return await limits.wait(self._send(client, call, sent))
        except Exception:
            if refused is not None:
                raise refused from refused.__cause__
            raise
        finally:
            before_sending.reset(token)

    @abstractmethod
    def _client(self, base_url: str, key: str, tenant: str) -> C:
        """A client that takes nothing from the environment, and never tries again by itself."""

    @abstractmethod
    def _base_url(self, target: Target, *, model: str) -> str:
        """What all addresses of a target begin with; it may depend on the model that is asked for ("": none)."""

    @abstractmethod
    def _request(self, call: Call) -> VendorRequest:
        """The call in the vendor's format. Raises InvalidRequest when that cannot hold it."""

    @abstractmethod
    async def _send(self, client: C, call: Call, sent: VendorRequest) -> httpx2.Response:
        """A reply with a status of success whose body is still arriving; for another status it raises."""

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

    @asynccontextmanager
    async def _lease(self, target: Target, *, model: str = "", prompt: Sequence[str] = ()) -> AsyncGenerator[C]:
        """The client of a target. All that is raised while it is used becomes an error of the contract, here alone, and
        no exception leaves with a secret in its own words or in those of what caused it."""
        key = usable_key(self._client_key(target), provider=self.name)
        base_url = self._base_url(target, model=model)
        host = urlsplit(base_url).netloc
        try:
            try:
                async with self._clients.client(base_url, key, target.tenant) as client:
                    yield client
            except self.raised as exc:
                raise self.errors.from_sdk(
                    exc, provider=self.name, key=self._secret(target), host=host, prompt=prompt, model=model
                ) from exc
            except CONNECTION_ERRORS as exc:
                raise NotReached(
                    f"{self.name} broke the connection at {host}: {describe(exc)}", provider=self.name
                ) from exc
        except NotToBeSent:
            raise
        except FleetError as error:
            words = self._secrets(target).redact(error.message)
            error.message = f"{self.name} answered with {DISGUISED}" if words == DISGUISED else words
            error.args = (error.message,)
            raise error from None
        except Exception as exc:  # noqa: BLE001 - a bug, raised again with its traceback; its words may be the vendor's
            words = self._secrets(target).redact(reason(exc))
            raise AdapterCrashed(words).with_traceback(exc.__traceback__) from None

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
