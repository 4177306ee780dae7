"""What a quiet tenant waits while another one does its worst: on every subject that an agent may publish to, and with
every kind of hostile vendor.

    python -m benchmarks.walls [--seconds 10] [--only request] [--rate 20000] [--markdown]

The fleet's parts are processes, NATS has an account for each tenant, and each attack is made by a new tenant from a
process of its own, as fast as that can. The quiet tenant asks for a short stream, resumes it, cancels another one and
has tokens counted, twenty times a second, whatever it waits for. Beside what it waited for, the table has the most
memory that a worker had, and by how much the files of NATS grew. `--markdown` prints the table of docs/security.md.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nats
import uvloop
from rich.console import Console
from rich.table import Table

from contracts import subjects
from contracts.control import HANDOVER
from contracts.errors import FleetError
from contracts.subjects import Priority
from fleet.local.servers import PostgresServer, VaultServer
from migrations import upgrade
from tests import servers
from tests.patience import PATIENCE_S
from tests.security.fleet import MODELS, POOLS, Fleet, Tenant, running
from tests.security.hostile import KINDS, hostile_vendor
from tests.security.neighbours import Neighbours, Seen

BIG = 7_000_000
HOSTILE_CALLS = 12
"""Requests at a hostile vendor: enough that none of them is alone, and so few that the vendor is the attack."""
WAITED_FOR = ("first_token", "question", "resume", "cancel")
_MS, _MB = 1e3, 1024**2
_CALM_S, _CALM_WITHIN_S = 3, 60
"""For how long the files of NATS must not have changed before the next attack, which would pay for this one: a stream
goes on storing what was published faster than it syncs to disk."""
_NUMBER = "#"
"""Stands in a payload for the message's number."""


@dataclass(frozen=True)
class Attack:
    """`subject` and `payload` with the tenant's name in place of `{t}`, and the message's number in place of `#`."""

    name: str
    subject: str
    payload: str
    pad: int = 0
    """How many blanks follow, so that it has the size that is wanted."""
    vendor: str | None = "silent"
    """What the tenant's vendors are; None: the simulator, which answers."""
    most: int | None = None
    """How many messages; None: as many as one process can send."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Row:
    attack: str
    messages_per_s: float
    waited_ms: Mapping[str, tuple[float, float]]
    """Median and 99th percentile, by what was waited for; nothing when the quiet tenant was not served at all."""
    worker_mb: float
    disk_mb: float
    failure: str = ""


def _request(**fields: Any) -> str:
    said = [{"role": "user", "content": "Hello"}]
    model = f"{POOLS[0]}/{MODELS[POOLS[0]]}"
    return json.dumps({"id": f"r{_NUMBER}", "tenant": "{t}", "agent": "a", "model": model, "messages": said, **fields})


def attacks() -> list[Attack]:
    request = subjects.request(POOLS[0], Priority.INTERACTIVE, "T").replace("T", "{t}")
    control, rpc = f"{subjects.VERSION}.control.{{t}}", f"{subjects.VERSION}.rpc.{POOLS[1]}"
    question = json.dumps({"model": MODELS[POOLS[1]], "messages": [{"role": "user", "content": "Hello"}]})
    resume = json.dumps({"request_id": f"r{_NUMBER}", "agent": "a", "after": [0, -1]})
    cancel = json.dumps({"request_id": f"r{_NUMBER}"})
    forged = {"model": json.loads(_request())["model"], "attempt": 9, "queued_at": "2026-01-01T00:00:00Z"}
    return [
        Attack("at rest", request, "", most=0),
        Attack("request", request, _request(), vendor=None),
        Attack("request, many agents", request, _request(agent=f"a{_NUMBER}"), vendor=None),
        Attack("request, hanging vendor", request, _request()),
        Attack("request, 7 MB, hanging vendor", request, _request(), BIG),
        Attack("request, model of no provider", request.replace(POOLS[0], "auto"), _request(model=f"m{_NUMBER}")),
        Attack("request, malformed", request, "{"),
        Attack("request, malformed, 7 MB", request, "{", BIG),
        Attack("request, forged handover", request, _request(), headers={HANDOVER: json.dumps(forged)}),
        Attack("control.cancel", f"{control}.cancel", cancel),
        Attack("control.cancel, 7 MB", f"{control}.cancel", cancel, BIG),
        Attack("control.resume", f"{control}.resume", resume),
        Attack("control.resume, 7 MB", f"{control}.resume", resume, BIG),
        Attack("control, unknown verb, 7 MB", f"{control}.dance", cancel, BIG),
        Attack("rpc.count_tokens, hanging vendor", f"{rpc}.count_tokens.{{t}}", question),
        Attack("rpc.count_tokens, 7 MB, hanging vendor", f"{rpc}.count_tokens.{{t}}", question, BIG),
        Attack("rpc.estimate_cost, 7 MB", f"{rpc}.estimate_cost.{{t}}", question, BIG),
        Attack("rpc.models, hanging vendor", f"{rpc}.models.{{t}}", ""),
        Attack("rpc.health, hanging vendor", f"{rpc}.health.{{t}}", ""),
        Attack("rpc, unknown method, 7 MB", f"{rpc}.dance.{{t}}", "", BIG),
        *(Attack(f"vendor: {kind}", request, _request(), vendor=kind, most=HOSTILE_CALLS) for kind in KINDS),
    ]


async def main(seconds: float, only: str, *, rate: float, markdown: bool) -> None:
    chosen = [attack for attack in attacks() if only in attack.name]
    async with _fleet(tenants=len(chosen) + 1) as fleet:
        neighbours = Neighbours(fleet, await fleet.tenant())
        rows = list[Row]()
        for attack in chosen:
            rows.append(await _measure(fleet, neighbours, attack, seconds, rate))
            print(" | ".join(_cells(rows[-1])), file=sys.stderr, flush=True)
    if markdown:
        print(_markdown(rows))
    else:
        Console().print(_table(rows))
    print(json.dumps({"benchmark": "walls", "rows": [asdict(row) for row in rows]}))


async def _measure(fleet: Fleet, neighbours: Neighbours, attack: Attack, seconds: float, rate: float) -> Row:
    tenant = await fleet.tenant()
    failure, seen, published = "", Seen(), 0
    async with AsyncExitStack() as stack:
        if attack.vendor is not None:
            port = await stack.enter_async_context(hostile_vendor(attack.vendor))
            for provider, path in zip(POOLS, ("/v1", ""), strict=True):
                await fleet.use_vendor(tenant, provider, f"http://127.0.0.1:{port}{path}")
        try:
            async with neighbours.watched(one_by_one=False) as seen:
                published = await _attack_from_outside(tenant, attack, seconds, rate)
        except (AssertionError, FleetError, TimeoutError) as exc:
            failure = f"not served: {type(exc).__name__} {str(exc)[:60]}".strip()
        await _withdraw(fleet, tenant)
    await _calm(fleet)
    return Row(
        attack=attack.name,
        messages_per_s=round(published / seconds, 1),
        waited_ms={kind: _percentiles(seen.waited[kind]) for kind in WAITED_FOR if kind in seen.waited},
        worker_mb=round(max((used for role, used in seen.peak.items() if "worker" in role), default=0) / _MB),
        disk_mb=round(seen.disk_grew / _MB, 1),
        failure=failure,
    )


async def _attack_from_outside(tenant: Tenant, attack: Attack, seconds: float, rate: float) -> int:
    """How many messages a process of its own has published."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __spec__.name if __spec__ else __name__, "--attack",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    order = {"url": tenant.nats_url, "tenant": tenant.name, "password": tenant.password, "seconds": seconds}
    said, _ = await process.communicate(json.dumps({**order, "rate": rate, **asdict(attack)}).encode())
    return int(said)


async def _publish(order: Mapping[str, Any]) -> int:
    """As an agent of the tenant, until the time is over."""

    async def ignore(_: Exception) -> None:
        pass

    tenant, pad, began = order["tenant"], b" " * order["pad"], time.monotonic()
    give_up = began + order["seconds"]
    subject, payload = (order[name].replace("{t}", tenant) for name in ("subject", "payload"))
    most = sys.maxsize if order["most"] is None else order["most"]
    connection = await nats.connect(
        order["url"],
        user=f"agent-{tenant}",
        password=order["password"],
        inbox_prefix=subjects.inbox_prefix(tenant),
        error_cb=ignore,
    )
    inbox, number = connection.new_inbox(), 0
    while number < most and time.monotonic() < give_up:
        body = payload.replace(_NUMBER, str(number)).encode() + pad
        await connection.publish(subject, body, reply=inbox, headers=order["headers"] or None)
        number += 1
        if number % 256 == 0 or pad:
            await connection.flush(int(PATIENCE_S))
            if order["rate"]:
                await asyncio.sleep(max(0.0, began + number / order["rate"] - time.monotonic()))
    await asyncio.sleep(max(0.0, give_up - time.monotonic()))
    await connection.close()
    return number


async def _withdraw(fleet: Fleet, tenant: Tenant) -> None:
    """What is left of the attack would be the next one's."""
    async with fleet.operator() as operator:
        for pool in (*POOLS, "auto"):
            ask = {"filter": subjects.request(pool, Priority.INTERACTIVE, tenant.name)}
            await operator.request("$JS.API.STREAM.PURGE.LLM_REQUESTS", json.dumps(ask).encode(), timeout=PATIENCE_S)


async def _calm(fleet: Fleet) -> None:
    give_up = time.monotonic() + _CALM_WITHIN_S
    before = -1
    while before != (before := fleet.disk()) and time.monotonic() < give_up:  # noqa: ASYNC110 - only the server knows
        await asyncio.sleep(_CALM_S)


@asynccontextmanager
async def _fleet(*, tenants: int) -> AsyncGenerator[Fleet]:
    with TemporaryDirectory(prefix="fleet-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240
        vault = VaultServer(folder / "vault", providers=servers.PROVIDERS)
        postgres = PostgresServer(folder / "postgres")
        try:
            await asyncio.gather(vault.start(), postgres.start())
            await asyncio.to_thread(upgrade, postgres.url())
            known = await servers.set_up_vault(vault.addr, vault.root_token)
            async with running(folder, known, postgres.url(), tenants=tenants) as fleet:
                yield fleet
        finally:
            await asyncio.gather(vault.kill(), postgres.stop())


def _percentiles(waited: Sequence[float]) -> tuple[float, float]:
    """In milliseconds."""
    cuts = statistics.quantiles(waited, n=100, method="inclusive") if len(waited) > 1 else [waited[0]] * 99
    return round(cuts[49] * _MS, 1), round(cuts[98] * _MS, 1)


def _cells(row: Row) -> list[str]:
    waited = [row.waited_ms.get(kind) for kind in WAITED_FOR]
    times = ["—" if pair is None else f"{pair[0]:.0f} / {pair[1]:.0f}" for pair in waited]
    rate = f"{row.messages_per_s:,.0f}"
    return [f"{row.attack} {row.failure}".strip(), rate, *times, f"{row.worker_mb:.0f}", f"{row.disk_mb:.0f}"]


_HEADS = ("attack", "messages/s", *(f"{kind.replace('_', ' ')}, ms" for kind in WAITED_FOR), "worker, MB", "disk, MB")


def _table(rows: Sequence[Row]) -> Table:
    table = Table(*_HEADS, title="A quiet tenant: median / 99th percentile")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _markdown(rows: Sequence[Row]) -> str:
    lines = [_HEADS, ["---"] * len(_HEADS), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10, help="how long each attack lasts")
    parser.add_argument("--only", default="", help="attacks whose name has this")
    parser.add_argument("--rate", type=float, default=0, help="messages a second at most (as many as can be sent)")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--attack", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        print(uvloop.run(_publish(json.load(sys.stdin))))
    else:
        asyncio.run(main(options.seconds, options.only, rate=options.rate, markdown=options.markdown))
