"""Spreading calls over the endpoints of a provider: by weight, least in flight first, then by latency.

An endpoint's load is what this worker has in flight there for its weight. Among those with the least load a draw
decides in which the chance is the weight, lowered for endpoints that are slower to their first output: so an idle
fleet keeps to the weights, and a slow or stuck endpoint gets less.
"""

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.providers import Endpoint
from workers.endpoints.names import EndpointId

_ALPHA = 0.2
"""Weight of the newest latency in its moving average."""
_INDIFFERENCE_S = 0.1
"""Differences well below this do not matter."""
_MOST_KEPT = 10_000


@dataclass(slots=True)
class _Load:
    in_flight: int = 0
    latency_s: float | None = None
    """To the first output, as an exponentially weighted moving average; None: not known yet."""


class LoadBalancer:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._loads: OrderedDict[EndpointId, _Load] = OrderedDict()

    def order(self, endpoints: Sequence[tuple[EndpointId, Endpoint]]) -> list[Endpoint]:
        """The order in which to try them; those of weight 0 come after all others."""
        if len(endpoints) == 1:
            return [endpoints[0][1]]
        loads = [self._loads.get(name, _NO_LOAD) for name, _ in endpoints]
        fastest_s = min((load.latency_s for load in loads if load.latency_s is not None), default=0.0)

        def place(of: tuple[_Load, Endpoint]) -> tuple[bool, float, float]:
            load, endpoint = of
            if not endpoint.weight:
                return True, load.in_flight, 0.0
            latency_s = fastest_s if load.latency_s is None else load.latency_s
            chance = endpoint.weight * (fastest_s + _INDIFFERENCE_S) / (latency_s + _INDIFFERENCE_S)
            return False, load.in_flight / endpoint.weight, -(self._rng.random() ** (1 / chance))

        placed = sorted(zip(loads, (e for _, e in endpoints), strict=True), key=place)
        return [endpoint for _, endpoint in placed]

    def in_flight(self, endpoint: EndpointId) -> int:
        return self._loads.get(endpoint, _NO_LOAD).in_flight

    def begin(self, endpoint: EndpointId) -> None:
        """A call counts as in flight from now on, until its `end`."""
        if (load := self._loads.get(endpoint)) is None:
            load = self._loads[endpoint] = _Load()
        self._loads.move_to_end(endpoint)
        load.in_flight += 1

    def end(self, endpoint: EndpointId) -> None:
        """To be said once for each `begin`."""
        self._loads[endpoint].in_flight -= 1
        # The endpoints that were called least recently stand first.
        while len(self._loads) > _MOST_KEPT and not next(iter(self._loads.values())).in_flight:
            self._loads.popitem(last=False)

    def observe_latency(self, endpoint: EndpointId, seconds: float) -> None:
        """A call that is in flight has had its first output after so many seconds."""
        load = self._loads[endpoint]
        load.latency_s = seconds if load.latency_s is None else load.latency_s + _ALPHA * (seconds - load.latency_s)


_NO_LOAD = _Load()
