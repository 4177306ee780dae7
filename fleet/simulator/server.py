"""The simulator: every vendor's paths on one port, and `/_sim/…` to script it and to read its ledger.

    PUT    /_sim/scripts/{model}   one script or a list of them, used up in order, the last one stays
    DELETE /_sim/scripts
    GET    /_sim/ledger[?model=…]  everything that was served       DELETE /_sim/ledger
    GET    /_sim/healthz

A request can bring its own script as `"simulate": {…}` in its body, or a list of them for its first, second, … call
(calls belong together by the vendor's request id header). docs/simulator.md says all of it.
"""

import asyncio
import contextlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

from pydantic import SecretStr, TypeAdapter, ValidationError

from fleet.simulator import http
from fleet.simulator.anthropic import Anthropic
from fleet.simulator.azure import Azure
from fleet.simulator.entra import Entra
from fleet.simulator.google import Google
from fleet.simulator.ledger import Entry, Ledger
from fleet.simulator.ollama import Ollama
from fleet.simulator.openai import OpenAI
from fleet.simulator.request_body import BadBody
from fleet.simulator.script import Script, Scripts
from fleet.simulator.tcp import listening
from fleet.simulator.vendor import Ask, Frame, HttpAnswer, HttpRequest, Vendor
from runtime.sealing import fingerprint
from runtime.tasks import end

_JSON = {"content-type": "application/json"}
_SCRIPTS: TypeAdapter[list[Script] | Script] = TypeAdapter(list[Script] | Script)
_CALLS_REMEMBERED = 10_000
"""Requests whose number of calls is known, for lists of scripts that a request brings."""
_BEFORE_RESET_S = 0.05
"""How long a reset waits, because it throws away what the caller has not read so far."""


class Simulator:
    """A server that runs in this process: `async with Simulator() as simulator:` serves until the block ends. Port 0
    takes a free one."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host = host
        self._port = port
        self.entra = Entra()
        self._vendors: tuple[Vendor, ...] = (OpenAI(), Anthropic(), Azure(self.entra), Google(), Ollama())
        self._scripts = Scripts()
        self._calls: OrderedDict[str, int] = OrderedDict()
        self.connections = 0
        """How many connections are open."""
        self._stack = contextlib.AsyncExitStack()
        self.ledger = Ledger()

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    def base_url(self, vendor: str) -> str:
        """The base URL of a provider of this vendor."""
        return self.url + next(v.prefix for v in self._vendors if v.name == vendor)

    def script(self, model: str, *scripts: Script) -> None:
        """From now on `model` answers with these scripts, one after the other, and with the last one for good."""
        self._scripts.put(model, *scripts)

    async def __aenter__(self) -> "Simulator":
        self._port = await self._stack.enter_async_context(listening(self._talk, self._port, host=self._host))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until its end, or until what comes on it cannot be read."""
        self.connections += 1
        try:
            caller = http.Caller(reader)
            while await self._serve(caller, writer):
                pass
        except (asyncio.LimitOverrunError, http.BadRequest, ValueError):
            pass
        finally:
            self.connections -= 1

    async def _serve(self, caller: http.Caller, writer: asyncio.StreamWriter) -> bool:
        """Serves one request. Returns whether another one may follow on this connection."""
        request = await http.read_request(caller)
        if request is None:
            return False
        if request.path.startswith("/_sim/"):
            return await _send(writer, self._administer(request))
        for vendor in self._vendors:
            try:
                answer = vendor.answer(request)
            except BadBody as exc:
                answer = vendor.bad_request(exc)
            if isinstance(answer, Ask):
                return await self._complete(vendor, answer, request, caller, writer)
            if answer:
                return await _send(writer, answer)
        return await _send(writer, _json(404, {"error": {"message": f"Unknown path {request.path}"}}))

    async def _complete(
        self, vendor: Vendor, ask: Ask, request: HttpRequest, caller: http.Caller, writer: asyncio.StreamWriter
    ) -> bool:
        """Says a completion until it is over or the caller hangs up. Returns whether another request may follow."""
        try:
            script = self._script_for(ask)
        except ValidationError as exc:
            return await _send(writer, _json(400, {"error": {"message": f"simulate is no script: {exc}"}}))
        entry = self.ledger.open(
            Entry(
                vendor=vendor.name,
                path=request.path,
                model=ask.model,
                request_id=ask.request_id,
                key_fingerprint=fingerprint(SecretStr(ask.key)) if ask.key else None,
                stream=ask.stream,
            ),
            ask.body,
            request.headers,
        )
        exchange = _Exchange(vendor, ask, script, entry, writer)
        gone = asyncio.create_task(caller.gone(), name="caller gone")
        saying = asyncio.create_task(exchange.run(), name="exchange")
        try:
            await asyncio.wait([gone, saying], return_when=asyncio.FIRST_COMPLETED)
            if saying.done():
                return await saying
            entry.outcome = "hung_up"
            return False
        except ConnectionError:
            entry.outcome = "hung_up"
            return False
        finally:
            entry.ended_at = time.time()
            await end(gone, saying)

    def _script_for(self, ask: Ask) -> Script:
        """The script that the request brings, else its model's. Raises ValidationError."""
        inline = ask.body.get("simulate")
        if inline is None:
            return self._scripts.next(ask.model)
        scripts = _SCRIPTS.validate_python(inline)
        if isinstance(scripts, Script):
            return scripts
        request_id = ask.request_id or ""
        calls_before = self._calls.pop(request_id, 0)
        self._calls[request_id] = calls_before + 1
        if len(self._calls) > _CALLS_REMEMBERED:
            self._calls.popitem(last=False)
        return scripts[min(calls_before, len(scripts) - 1)] if scripts else Script()

    def _administer(self, request: HttpRequest) -> HttpAnswer:
        """Answers what comes below /_sim/."""
        what = request.path.removeprefix("/_sim/")
        match request.method, what.split("/", 1):
            case "GET", ["healthz"]:
                return _json(200, {"status": "ok"})
            case "GET", ["ledger"]:
                models = parse_qs(request.query).get("model")
                entries = [entry for entry in self.ledger.to_list() if not models or entry["model"] in models]
                return _json(200, {"items": entries})
            case "DELETE", ["ledger"]:
                self.ledger.clear()
                return _json(200, {})
            case "DELETE", ["scripts"]:
                self._scripts.clear()
                return _json(200, {})
            case "PUT", ["scripts", model] if model:
                try:
                    scripts = _SCRIPTS.validate_json(request.body)
                except ValidationError as exc:
                    return _json(422, {"error": {"message": str(exc)}})
                self.script(model, *(scripts if isinstance(scripts, list) else [scripts]))
                return _json(200, {})
            case _:
                return _json(404, {"error": {"message": f"Unknown path {request.path}"}})


class _Exchange:
    """One completion, answered as its script wants."""

    def __init__(self, vendor: Vendor, ask: Ask, script: Script, entry: Entry, writer: asyncio.StreamWriter) -> None:
        self._vendor = vendor
        self._ask = ask
        self._script = script
        self._entry = entry
        self._writer = writer

    async def run(self) -> bool:
        """Answers. Returns whether the connection can be used again."""
        script, entry = self._script, self._entry
        await asyncio.sleep(script.headers_s)
        breaks_later = script.body is not None or script.error_after_chunks is not None
        if not breaks_later and (script.error is not None or (script.status or 200) >= 300):
            answer = self._vendor.error(self._ask, script)
            entry.status, entry.outcome = answer.status, "failed"
            return await _send(self._writer, HttpAnswer(answer.status, answer.body, script.headers))
        entry.status = script.status or 200
        body = http.Body(
            self._writer, cut_after_bytes=script.cut_after_bytes, split_bytes=script.split_bytes, gzip=script.gzip
        )
        try:
            await self._say(body, entry.status)
        except http.Cut:
            entry.outcome = "cut"
            if script.cut == "reset":
                await asyncio.sleep(_BEFORE_RESET_S)
                http.reset(self._writer)
                return False
            if script.cut == "close":
                return False
        else:
            entry.outcome = "finished"
            if script.end_marker and (stated := self._vendor.stated(self._ask, script)):
                entry.input_tokens, entry.output_tokens = stated.input_tokens, stated.output_tokens
        finally:
            entry.bytes_sent = body.sent
        await body.end()
        return True

    async def _say(self, body: http.Body, status: int) -> None:
        """Writes the head and the body, up to its end or to where the script breaks off. Raises http.Cut."""
        script = self._script
        if script.body is not None:
            kind = {"content-type": script.content_type}
        elif self._ask.stream:
            kind = self._vendor.stream_headers()
        else:
            kind = _JSON
        encoding = {"content-encoding": "gzip"} if script.gzip else {}
        headers = {**kind, **encoding, "transfer-encoding": "chunked", **script.headers}
        self._writer.write(http.head(status, headers))
        if script.body is not None:
            await body.write([script.body.encode()])
        elif self._ask.stream:
            await self._stream(body)
        else:
            await asyncio.sleep(script.first_token_s)
            await body.write([self._vendor.whole(self._ask, script)])

    async def _stream(self, body: http.Body) -> None:
        """Writes a stream at the pace of the script, then does what the script wants after so many chunks: an error,
        silence, or a cut (raises http.Cut). A burst that is late does not make the next ones late."""
        script, entry = self._script, self._entry
        now = asyncio.get_running_loop().time
        between_s, pings = script.between_s, script.ping_s is not None
        due = now() + script.first_token_s
        for burst in self._bursts():
            if burst[0].is_output:
                if pings:
                    await self._ping_until(due, body)
                await asyncio.sleep(max(due - now(), 0))
                due = max(due + between_s, now() - between_s)
            await body.write([frame.data for frame in burst])
            entry.chunks_sent += sum([frame.is_output for frame in burst])
            entry.bytes_sent = body.sent
        if entry.chunks_sent == script.error_after_chunks:
            await body.write([self._vendor.error_frame(self._ask, script)])
        elif entry.chunks_sent == script.stall_after_chunks:
            await self._ping_until(math.inf, body)
            await http.hold()
        elif entry.chunks_sent == script.cut_after_chunks:
            raise http.Cut

    def _bursts(self) -> Iterator[list[Frame]]:
        """The frames that leave together, burst by burst, up to where the script breaks off."""
        script = self._script
        breaks_at = (script.cut_after_chunks, script.stall_after_chunks, script.error_after_chunks)
        burst: list[Frame] = []
        outputs = 0
        for frame in self._vendor.frames(self._ask, script):
            if outputs in breaks_at and (burst or frame.is_output):
                break
            if frame.is_output and burst and (not burst[0].is_output or len(burst) >= script.together):
                yield burst
                burst = []
            outputs += frame.is_output
            burst.append(frame)
        if burst:
            yield burst

    async def _ping_until(self, due: float, body: http.Body) -> None:
        """Sends the vendor's signs of life, up to the last one before `due` on the loop's clock."""
        now = asyncio.get_running_loop().time
        ping_s = self._script.ping_s
        while ping_s and now() + ping_s < due:
            await asyncio.sleep(ping_s)
            await body.write([self._vendor.ping])


async def _send(writer: asyncio.StreamWriter, answer: HttpAnswer) -> bool:
    """Sends a whole answer, after which the connection can be used again."""
    headers = {**_JSON, "content-length": str(len(answer.body)), **answer.headers}
    writer.write(http.head(answer.status, headers) + answer.body)
    await writer.drain()
    return True


def _json(status: int, body: Any) -> HttpAnswer:
    return HttpAnswer(status, json.dumps(body).encode())
