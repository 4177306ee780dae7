"""What workers tell each other of how many bytes each tenant has, in entries of `llm_health` that end with them."""

import logging
from collections.abc import Mapping
from heapq import nlargest

from pydantic import TypeAdapter, ValidationError

from contracts import subjects
from runtime.broker import Broker
from runtime.buckets import BucketWatch
from runtime.jetstream.register import Register
from workers.clock import Clock

log = logging.getLogger(__name__)

_MOST_TENANTS = 64

_SIZES: TypeAdapter[dict[str, int]] = TypeAdapter(dict[str, int])


class ToldSizes:
    """KV `llm_health`, keys `<kind>.<worker>`: bytes by tenant, of those that have most."""

    def __init__(
        self,
        broker: Broker,
        *,
        kind: str,
        worker: str,
        again_s: float,
        ttl_s: float,
        answer_within_s: float,
        clock: Clock,
    ) -> None:
        """What has not changed is told again after `again_s`. An entry ends `ttl_s` after it was told."""
        self._key = f"{kind}.{subjects.token(worker)}"
        self._register = Register(broker, bucket=subjects.HEALTH_BUCKET, answer_within_s=answer_within_s)
        self._again_s = again_s
        self._ttl_s = ttl_s
        self._clock = clock
        self._others: dict[str, dict[str, int]] = {}
        self.own: dict[str, int] = {}
        """What this worker told last."""
        self._told_at = float("-inf")
        self.bucket = BucketWatch(
            broker, subjects.HEALTH_BUCKET, keys=f"{kind}.>", take=self._take, forget_all_but=self._forget_all_but
        )

    @property
    def others(self) -> int:
        """How many other workers have told something."""
        return len(self._others)

    def of_others(self, tenant: str) -> int:
        """The bytes that all other workers have of the tenant, as far as they told."""
        return sum(sizes.get(tenant, 0) for sizes in self._others.values())

    async def tell(self, sizes: Mapping[str, int], *, least: int, step: float, also_none: bool) -> None:
        """Tells the others when they would learn something by it: a size has changed by `step`, or it is time again.

        Of tenants with less than `least` nothing is told. `also_none`: that there are no others is told again as well.
        Raises nats.errors.Error when it cannot be sent.
        """
        most = nlargest(_MOST_TENANTS, sizes.items(), key=lambda item: item[1])
        told, now = {tenant: size for tenant, size in most if size >= least}, self._clock.monotonic()
        changes = (abs(told.get(of, 0) - self.own.get(of, 0)) for of in told.keys() | self.own.keys())
        is_time = (told or also_none) and now - self._told_at >= self._again_s
        if max(changes, default=0) < step and not is_time:
            return
        await self._register.put(self._key, _SIZES.dump_json(told), ttl_s=self._ttl_s)
        self.own, self._told_at = told, now

    def _take(self, key: str, value: bytes | None, _: int) -> None:
        if key == self._key:
            return
        if value is None:
            self._others.pop(key, None)
            return
        try:
            self._others[key] = _SIZES.validate_json(value)
        except ValidationError:
            log.warning("told_sizes_unreadable", extra={"key": key})

    def _forget_all_but(self, seen: set[str]) -> None:
        self._others = {key: sizes for key, sizes in self._others.items() if key in seen}
