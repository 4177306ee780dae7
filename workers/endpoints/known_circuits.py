"""The circuits that a worker knows, bounded for each tenant: agents name models, and can name any number of them."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator

from workers.clock import Clock
from workers.endpoints.circuit import Circuit, Closed, Outdated
from workers.endpoints.names import CircuitId

MOST_OF_A_TENANT = 256
"""Models of one tenant, in one worker, and as many endpoints. As workers hear of each other's open circuits, it bounds
those of the fleet as well."""

_Circuits = OrderedDict[str, Circuit]
"""By key; those that were used last stand last."""


class KnownCircuits:
    """Of each tenant the circuits that are not closed, and the closed ones that were used last.

    A closed circuit that makes room for another one loses its count of failures, and nothing else.
    """

    def __init__(self, worker: str, clock: Clock) -> None:
        self._worker = worker
        self._clock = clock
        self._of_endpoints: defaultdict[str, _Circuits] = defaultdict(OrderedDict)
        self._of_models: defaultdict[str, _Circuits] = defaultdict(OrderedDict)
        """Both by tenant. They are apart, so that no number of models takes the room of an endpoint's circuit."""
        self._first_epoch = 0
        """Higher than that of every circuit that made room, so that a call which it allowed says nothing any more."""

    def __iter__(self) -> Iterator[Circuit]:
        for of_tenant in (*self._of_endpoints.values(), *self._of_models.values()):
            yield from of_tenant.values()

    def find(self, circuit_id: CircuitId) -> Circuit | None:
        return self._beside(circuit_id).get(circuit_id.key)

    def find_by_key(self, key: str) -> Circuit | None:
        tenant = key.split(".")[1]
        return self._of_models[tenant].get(key) or self._of_endpoints[tenant].get(key)

    def has_room_for(self, circuit_id: CircuitId) -> bool:
        """Whether it is known, or can be beside all others of its tenant that are out of service."""
        beside = self._beside(circuit_id)
        return circuit_id.key in beside or self._make_room(beside)

    def use(self, circuit_id: CircuitId) -> Circuit:
        """The circuit, closed if it was not known."""
        beside, key = self._beside(circuit_id), circuit_id.key
        if (circuit := beside.get(key)) is None:
            circuit = self.new(circuit_id)
            self.put(circuit)
        beside.move_to_end(key)
        return circuit

    def new(self, circuit_id: CircuitId) -> Circuit:
        """A circuit that is not known, closed."""
        return Circuit(circuit_id, self._worker, epoch=self._first_epoch)

    def put(self, circuit: Circuit) -> None:
        """Keeps a new state of a circuit, also of one that another worker has opened."""
        beside = self._beside(circuit.id)
        if circuit.id.key not in beside:
            self._make_room(beside)
        beside[circuit.id.key] = circuit

    def _beside(self, circuit_id: CircuitId) -> _Circuits:
        of_tenants = self._of_endpoints if circuit_id.model is None else self._of_models
        return of_tenants[circuit_id.endpoint.tenant]

    def _make_room(self, circuits: _Circuits) -> bool:
        """Whether there is room for one more, after the closed ones that were used least recently have left."""
        now = self._clock.now()
        while len(circuits) >= MOST_OF_A_TENANT:
            oldest = next((key for key, c in circuits.items() if isinstance(c.state(now), Closed | Outdated)), None)
            if oldest is None:
                return False
            self._first_epoch = max(self._first_epoch, circuits.pop(oldest).epoch + 1)
        return True
