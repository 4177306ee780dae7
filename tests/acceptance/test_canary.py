"""No secret leaves: known ones go through every path of a stack, and everything that it leaves behind is searched."""

import asyncio
import hashlib
import io
import json
import os
import signal
from base64 import b64encode
from collections.abc import AsyncGenerator, Generator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import nats
import psutil
import pytest
from cryptography.fernet import Fernet
from nats.aio.client import Client as Nats

from contracts import streams
from contracts.errors import FleetError
from contracts.events import Completed, Event
from fleet.client import Client
from fleet.deploy import nats_users
from fleet.local.vault_api import VaultApi
from fleet.simulator import Script, Simulator
from tests.acceptance.canary import Bird, files, forms, leaks
from tests.acceptance.running import RunningStack, run, running_stack
from tests.disguises import DISGUISES
from tests.echoes import echoing, refusing
from tests.patience import until
from workers.providers import registry

pytestmark = pytest.mark.slow

SERVERS = ("nats", "vault", "postgres")
VENDORS = [provider for provider in registry.available() if provider != "mock"]
KEYS = Bird.new()
"""Vendor keys, an application's secret, a signing secret: nobody may ever write them anywhere."""
ADMIN, SEALING = Bird.new(), Bird.new()
SEALING_KEY = f"{SEALING.head}{'A' * 19}{SEALING.tail}="
SHOWN_OF_OTHERS = 16
"""So much of the beginning of a secret that we did not choose."""
OLD_FERNET = Fernet.generate_key().decode()
KEPT_BY_THE_STACK = {
    "secrets.json": "passwords of NATS, the key of its files, the sealing key: made once, given to whom they are for",
    "ready.json": "how to reach the stack: the admin token, an agent's password, the database's address",
    "nats/nats.conf": "the server's users with their passwords",
    "vault/secrets.json": "the unseal key, the root token, a secret id for each role",
    "postgres/password": "of the database's only user",
}
"""Files of the state folder that hold secrets of the stack itself, for their owner only; never one of a vendor."""


class Trail:
    """Everything that came out of the stack towards somebody, and the secrets that were made on the way."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []
        self.entra_secrets: list[str] = []
        self.shown_once: list[str] = []

    def note(self, where: str, what: str | bytes) -> None:
        self.said.append((where, what.encode() if isinstance(what, str) else what))

    def nobodys(self) -> dict[bytes, str]:
        """What may stand nowhere, in all its forms."""
        tokens = [hashlib.sha256(secret.encode()).hexdigest()[:16] for secret in self.entra_secrets]
        found = KEYS.forms() | KEYS.disguises()
        for secret in (*self.shown_once, *tokens):
            found |= forms(secret) | forms(secret[:SHOWN_OF_OTHERS])
        return found


class Api:
    """The admin API; what it answers is kept."""

    def __init__(self, stack: RunningStack, trail: Trail) -> None:
        self._trail = trail
        token = {"Authorization": f"Bearer {stack.ready['admin_token']}"}
        self.http = httpx.AsyncClient(base_url=f"{stack.ready['admin_url']}/api/v1", headers=token, timeout=60)

    async def call(self, method: str, path: str, body: Any = None, **how: Any) -> httpx.Response:
        answer = await self.http.request(method, path, json=body, **how)
        self._trail.note(f"{method} {path.split('?')[0][:20]} {answer.status_code}", answer.text + str(answer.headers))
        return answer


def cases(key: str) -> dict[str, tuple[Script, ...]]:
    """By name: what a vendor does with a request, and with the key that it was sent."""
    echo: dict[str, Any] = {"error": {"message": f"the key {key} is wrong", "code": key, "type": key, "status": key}}
    fine = Script(chunks=4)
    refusals = {f"status-{code}": (Script(status=code, error=echo),) for code in (400, 401, 402, 403, 404, 413, 422)}
    setbacks = {f"status-{code}": (Script(status=code, error=echo), fine) for code in (408, 429, 500, 503, 529)}
    return refusals | setbacks | {
        "fine": (fine,),
        "error-in-stream": (Script(chunks=6, error_after_chunks=2, error=echo), fine),
        "cut-close": (Script(chunks=6, cut_after_chunks=2), fine),
        "cut-reset": (Script(chunks=6, cut_after_chunks=2, cut="reset"), fine),
        "cut-eof": (Script(chunks=6, cut_after_chunks=2, cut="eof"), fine),
        "no-end": (Script(chunks=6, end_marker=False), fine),
        "garbage": (Script(body=f"data: {key}\n\n{{{key}}}\n"), fine),
        "text": (Script(status=502, body=f"<html>{key}</html>", content_type="text/html"), fine),
        "headers": (Script(status=429, error=echo, headers=dict.fromkeys(("x-request-id", "retry-after"), key)), fine),
        "redirect": (Script(status=307, body="", headers={"location": f"http://127.0.0.1:1/?key={key}"}), fine),
    }  # fmt: skip


def echoes(provider: str, key: str) -> dict[str, tuple[Script, ...]]:
    """By name: what a vendor says in turn that says the key back in every form, in whole replies and in refusals."""
    said = [disguised(key) for disguised in DISGUISES.values()]
    return {
        "echo": tuple(
            echoing(provider, one, stream=number % 2 == 0, wants_back=False) for number, one in enumerate(said)
        ),
        "echo-refused": tuple(refusing(one, status=400) for one in said),
    }


def model_of(provider: str, case: str) -> str:
    return f"{provider}-{case}"


def config_of(vendor: Simulator, provider: str, names: Mapping[str, str]) -> dict[str, Any]:
    """An endpoint of its own for each case, so that no circuit keeps a case from another. `names`: key by case."""
    endpoints = [
        {"name": case, "base_url": vendor.base_url(provider), "deployments": {model: model}, "key": key}
        for case, key in names.items()
        for model in [model_of(provider, case)]
    ]
    if provider == "azure":
        endpoints[-1] |= {"auth": "entra_id"}
        endpoints[-2] |= {"auth": "entra_id"}
    return {"endpoints": endpoints}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningStack]:
    secrets = {"LLM_ADMIN_TOKEN": ADMIN.secret(), "LLM_ENCRYPTION_KEY": SEALING_KEY, "OPENAI_API_KEY": KEYS.secret()}
    folder = tmp_path_factory.mktemp("canary")
    with running_stack(folder, env={**secrets, "LLM_LOG_LEVEL": "DEBUG"}) as running:
        yield running


@pytest.fixture
async def vendor() -> AsyncGenerator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


def the_stacks_own(state: Path) -> dict[bytes, str]:
    """What the stack made for itself, in all its forms."""
    vault = json.loads((state / "vault/secrets.json").read_text())
    kept = json.loads((state / "secrets.json").read_text())
    made = [*kept.values(), vault["unseal_key"], vault["root_token"], (state / "postgres/password").read_text()]
    made += [secret_id for _, secret_id in vault["roles"].values()]
    found = ADMIN.forms() | SEALING.forms()
    for secret in made:
        found |= forms(secret) | forms(secret[:SHOWN_OF_OTHERS])
    return found


@pytest.mark.parametrize("around", ["", "a", "ab", "<key>", "Bearer "])
def test_the_search_finds_a_secret_in_every_form(around: str) -> None:
    text = f"{around}{KEYS.secret()}{around}"
    for shown in (text, text.encode().hex(), quote(text), b64encode(text.encode()).decode(), json.dumps([text])):
        assert any(leaks(KEYS.forms(), f"… {shown} …".encode(), "here"))
        cut = shown[: len(around) * 2 + 36]
        assert any(leaks(KEYS.forms(), cut.encode(), "here")), cut
    assert not any(leaks(KEYS.forms(), f"{around}{KEYS.head[:11]} {KEYS.tail[1:]}".encode(), "here"))


async def test_no_secret_leaves(stack: RunningStack, vendor: Simulator, tmp_path: Path) -> None:
    trail = Trail()
    api = Api(stack, trail)
    state = stack.ready_file.parent / "state"

    for provider in VENDORS:
        await _add(api, vendor, provider, trail)
    await _agents(stack, vendor, trail)
    await _mistakes(api)
    await _hooks_and_tokens(api, vendor, trail)
    await _commands(stack, vendor, trail, tmp_path)
    await _crashes(stack, vendor, trail)
    await _read_all(api)
    await _streams(stack, state, trail)
    await _database(stack, trail)
    await _metrics(state, api.http, trail)
    roles = {pid for role, pids in stack.ready["pids"].items() if role not in SERVERS for pid in pids}
    for process in stack.everybody():
        if process.pid in roles:
            assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0), process
        trail.note(f"command line of {process.pid}", " ".join(process.cmdline()))
    await _vault_holds_sealed_keys_only(stack, state)
    await api.http.aclose()

    nobodys, ours = trail.nobodys(), the_stacks_own(state)
    found = [leak for where, what in trail.said for leak in leaks(nobodys | ours, what, where)]
    for path, content in files([stack.ready_file.parent]):
        name = str(path.relative_to(state)) if path.is_relative_to(state) else path.name
        found += leaks(nobodys, content, name)
        if name in KEPT_BY_THE_STACK or path == stack.ready_file:
            assert path.stat().st_mode & 0o077 == 0, name
        else:
            found += leaks(ours, content, name)
    assert found == []
    assert all(any(leaks(ours, (state / name).read_bytes(), name)) for name in KEPT_BY_THE_STACK)


async def _add(api: Api, vendor: Simulator, provider: str, trail: Trail) -> None:
    """With a key by default, others by name, and one that the vendor refuses; then each is tried and rotated."""
    keys = {"default": KEYS.secret(), "spare": KEYS.secret(), "refused": KEYS.secret("invalid")}
    names = dict.fromkeys((*cases(""), *echoes(provider, "")), "default") | {"spare": "spare", "refused": "refused"}
    if provider == "azure":
        for name, middle in (("entra", ""), ("entra-refused", "invalid")):
            trail.entra_secrets.append(KEYS.secret(middle))
            credentials = {"tenant_id": "t", "client_id": "c", "client_secret": trail.entra_secrets[-1]}
            keys[name] = json.dumps({**credentials, "authority": vendor.url})
            names[name] = name
    scripts = cases(keys["default"]) | echoes(provider, keys["default"])
    for name in names:
        vendor.script(model_of(provider, name), *scripts.get(name, scripts["fine"]))
    body = {"tenant": "demo", "config": config_of(vendor, provider, names)}
    body |= {"api_key": keys.pop("default"), "api_keys": keys}
    there = (await api.call("GET", f"/llm-providers?tenant=demo&type={provider}")).json()["items"]
    if there:
        answer = await api.call("PUT", f"/llm-providers/{there[0]['id']}", body)
    else:
        answer = await api.call("POST", "/llm-providers", {**body, "provider_type": provider})
    assert answer.is_success, answer.text
    where = f"/llm-providers/{answer.json()['id']}"
    assert (await api.call("POST", f"{where}/test")).json()["healthy"] is False
    assert (await api.call("PUT", where, {"api_keys": {"spare": KEYS.secret()}})).is_success


async def _agents(stack: RunningStack, vendor: Simulator, trail: Trail) -> None:
    """Ask for every case of every vendor; what they are told is kept."""
    ready = stack.ready
    login = {"user": ready["nats_user"], "password": ready["nats_password"]}
    async with Client(ready["nats_url"], tenant=ready["tenant"], agent="canary", **login) as agent:

        async def ask(model: str, *, stream: bool) -> Event | None:
            last = None
            try:
                async for event in agent.stream(model, "Hello", stream=stream, deadline_s=12):
                    trail.note(f"event of {model}", event.to_json())
                    last = event
            except FleetError as exc:
                trail.note(f"error of {model}", str(exc))
            return last

        async def echoed(provider: str, case: str) -> list[Event | None]:
            """Each in turn, half of them as streams."""
            model = f"{provider}/{model_of(provider, case)}"
            return [await ask(model, stream=number % 2 == 0) for number in range(len(DISGUISES))]

        wanted = [
            (p, e["name"]) for p in VENDORS for e in config_of(vendor, p, dict.fromkeys(cases(""), ""))["endpoints"]
        ]
        wanted += [(p, extra) for p in VENDORS for extra in ("spare", "refused")]
        wanted += [("azure", "entra"), ("azure", "entra-refused")]
        ended = await asyncio.gather(
            *(ask(f"{p}/{model_of(p, case)}", stream=case != "status-401") for p, case in wanted)
        )
        told = await asyncio.gather(*(echoed(p, case) for p in VENDORS for case in echoes(p, "")))
    assert [len(events) for events in told] == [len(DISGUISES)] * len(told)
    whole = [event for events in told[::2] for event in events]
    assert all(isinstance(event, Completed) for event in whole)
    assert {event.response_model for event in whole if isinstance(event, Completed)} == {None}
    assert not any(isinstance(event, Completed) for events in told[1::2] for event in events)
    fine = {f"{p}-{case}" for (p, case), event in zip(wanted, ended, strict=True) if isinstance(event, Completed)}
    must = {f"{p}-{case}" for p in VENDORS for case in ("fine", "spare", "cut-reset", "status-503")}
    assert must <= fine, [what for where, what in trail.said if where.partition("/")[2] in must - fine]
    assert "azure-entra" in fine
    assert not {f"{p}-refused" for p in VENDORS} & fine
    reached = {entry.model for entry in vendor.ledger.entries}
    assert {f"{p}-{case}" for p, case in wanted if not case.endswith("refused")} <= reached


async def _mistakes(api: Api) -> None:
    """Keys where they do not belong."""
    key = KEYS.secret()
    body = {"tenant": "demo", "provider_type": "openai"}
    for wrong in (
        {**body, "api_key": f"{key}\n"},
        {**body, "api_key": [key]},
        {**body, "config": {"api_key": key}},
        {**body, "config": {"base_url": key}},
        {**body, "api_key": "x", "config": {"endpoints": [{"name": "a", "key": key}]}},
        {**body, key: "x"},
        {**body, "provider_type": key},
    ):
        assert (await api.call("POST", "/llm-providers", wrong)).status_code == 422
    for path in (f"/llm-providers/{key}", f"/llm-providers?type={key}", f"/{key}"):
        assert (await api.call("GET", path)).is_error
    stranger = {"headers": {"Authorization": f"Bearer {key}"}}
    assert (await api.call("GET", "/llm-providers", **stranger)).status_code == 401


async def _hooks_and_tokens(api: Api, vendor: Simulator, trail: Trail) -> None:
    """Secrets that the API makes are shown once, to whoever asked, and nowhere again."""
    made = [
        (await api.http.post("/webhooks", json={"tenant": "demo", "url": vendor.url})).json(),
        (await api.http.post("/tokens", json={"name": "canary", "role": "viewer", "tenant": "demo"})).json(),
    ]
    await api.call("POST", f"/webhooks/{made[0]['id']}/test")
    trail.shown_once.extend([made[0]["secret"].removeprefix("whsec_"), made[1]["token"]])
    viewer = {"headers": {"Authorization": f"Bearer {made[1]['token']}"}}
    assert (await api.call("GET", "/usage", **viewer)).is_success


async def _commands(stack: RunningStack, vendor: Simulator, trail: Trail, folder: Path) -> None:
    """`fleet keys import` and `reseal`."""
    state = str(stack.ready_file.parent / "state")
    token = Fernet(OLD_FERNET).encrypt(KEYS.secret().encode()).decode()
    source = folder / "keys.csv"
    rows = [
        (KEYS.secret(), "openai"),
        (KEYS.secret("invalid"), "anthropic"),
        (token, "google"),
        (KEYS.secret(), "cohere"),
    ]
    lines = [f"demo,{kind},{key},{vendor.base_url('openai' if kind == 'cohere' else kind)}" for key, kind in rows]
    source.write_text("\n".join(["tenant,provider,api_key,base_url", *lines]))
    environment = {"OLD_FERNET": OLD_FERNET, "LLM_ENCRYPTION_KEY": SEALING_KEY, "LLM_LOG_LEVEL": "DEBUG"}
    for arguments in (
        ("import", "--from", str(source), "--weight", "5", "--fernet-key-env", "OLD_FERNET"),
        ("import", "--from", str(source), "--weight", "5"),
        ("import", "--from", f"{stack.ready['database_url']}#nowhere"),
        ("reseal",),
    ):
        ended = await asyncio.to_thread(run, "keys", *arguments, "--state", state, env=environment, timeout_s=60)
        trail.note(f"fleet keys {arguments[0]}", ended.stdout + ended.stderr)


async def _crashes(stack: RunningStack, vendor: Simulator, trail: Trail) -> None:
    """Workers die with keys in their memory and streams in flight; others go on."""
    ready = stack.ready
    login = {"user": ready["nats_user"], "password": ready["nats_password"]}

    async def crash(agent: Client, provider: str, sig: signal.Signals) -> None:
        model = model_of(provider, "fine")
        before = len(vendor.ledger.of_model(model))
        vendor.script(model, Script(chunks=20, between_s=0.1), Script(chunks=4))
        asking = asyncio.create_task(agent.complete(f"{provider}/{model}", "Hello", deadline_s=60))
        await until(lambda: len(vendor.ledger.of_model(model)) > before)
        (worker,) = stack.pids(f"worker-{provider}")
        os.kill(worker, sig)
        trail.note("completed after a crash", (await asking).to_json())

    async with Client(ready["nats_url"], tenant=ready["tenant"], agent="canary", **login) as agent:
        await asyncio.gather(
            crash(agent, "openai", signal.SIGSEGV),
            crash(agent, "anthropic", signal.SIGKILL),
            crash(agent, "google", signal.SIGABRT),
        )


async def _read_all(api: Api) -> None:
    for path in (
        "llm-providers",
        "tenants",
        "tokens",
        "webhooks",
        "audit",
        "alerts",
        "dead-letters",
        "models",
        "fleet",
    ):
        assert (await api.call("GET", f"/{path}")).is_success, path
    for path in ("usage?group_by=day", "audit?format=jsonl"):
        await api.call("GET", f"/{path}")


async def _streams(stack: RunningStack, state: Path, trail: Trail) -> None:
    """What is in all streams and buckets of NATS; on disk they are encrypted."""
    operator = nats_users.operator()
    password = json.loads((state / "secrets.json").read_text())[f"nats_{operator.name}"]
    client = await nats.connect(
        stack.ready["nats_url"], user=operator.name, password=password, inbox_prefix=operator.inbox_prefix
    )
    try:
        names: list[str] = json.loads((await client.request("$JS.API.STREAM.NAMES", timeout=30)).data)["streams"]
        kept = {name: await _messages(client, name, trail) for name in names}
    finally:
        await client.close()
    assert kept[streams.REPLIES] > len(VENDORS) * len(cases(""))
    assert kept[streams.ATTEMPTS] > len(VENDORS)
    assert kept[streams.CONFIG] > len(VENDORS)
    said = [what for where, what in trail.said if where.endswith(f" of {streams.CONFIG}")]
    assert any(b"openai-fine" in what for what in said)


async def _messages(client: Nats, stream: str, trail: Trail) -> int:
    number, seq = 0, 1
    while True:
        ask = json.dumps({"seq": seq, "next_by_subj": ">"}).encode()
        answer = await client.request(f"$JS.API.DIRECT.GET.{stream}", ask, timeout=30)
        headers = answer.headers or {}
        if headers.get("Status"):
            return number
        number += 1
        seq = int(headers["Nats-Sequence"]) + 1
        trail.note(f"message {seq - 1} of {stream}", answer.data + str(headers).encode())


async def _database(stack: RunningStack, trail: Trail) -> None:
    connection = await asyncpg.connect(stack.ready["database_url"])
    try:
        tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        for (name,) in tables:
            dump = io.BytesIO()
            await connection.copy_from_table(name, output=dump, schema_name="public")
            trail.note(f"table {name}", dump.getvalue())
        assert {"llm_providers", "audit_log"} <= {name for (name,) in tables}
    finally:
        await connection.close()


async def _metrics(state: Path, http: httpx.AsyncClient, trail: Trail) -> None:
    for role, port in json.loads((state / "ports.json").read_text()).items():
        if role not in SERVERS:
            answer = await http.get(f"http://127.0.0.1:{port}/metrics")
            assert answer.is_success, role
            trail.note(f"metrics of {role}", answer.text)


async def _vault_holds_sealed_keys_only(stack: RunningStack, state: Path) -> None:
    root = VaultApi(stack.ready["vault_addr"], json.loads((state / "vault/secrets.json").read_text())["root_token"])
    held = 0
    for provider in VENDORS:
        for folder in (provider, f"{provider}/demo"):
            for name in (await root.call("LIST", f"llm/metadata/{folder}"))["data"]["keys"]:
                if not name.endswith("/"):
                    found = (await root.call("GET", f"llm/data/{folder}/{name}"))["data"]["data"]
                    assert found.keys() == {"sealed", "key_version"}
                    assert found["sealed"].startswith("fleet1.")
                    assert not list(leaks(KEYS.forms(), found["sealed"].encode(), "Vault"))
                    held += 1
    assert held >= 3 * len(VENDORS)
