"""What the intake knows of the NATS server that it pulls from, and what that server may have forgotten.

A single node that is killed and started again has forgotten, as seen on nats-server 2.15.1, in the order in which it
matters here:

1. At once: whom it gave what in the last moments before. Messages are on disk before they are confirmed, but the
   consumer's deliveries and acks follow later. Such a message is given out again at once, perhaps to another worker,
   and as a first delivery (`num_delivered` 1).
2. Streams in memory, with their definitions: `LLM_REPLIES`, so the events by which another worker would see that a
   request is being worked on, or is done. Workers say theirs again when they have reconnected.
3. Until the duplicate window has passed: the message ids of what is no longer stored. They are read back from the
   stored messages, and a request that was acked is none of these, so a copy of it is stored as if it were new.

Nodes of a cluster know it from each other.
"""

from datetime import datetime, timedelta

from workers.clock import Clock
from workers.jetstream.server_memory import REQUEST_IDS_KNOWN

SETTLE_S = 3.0
"""Nothing is pulled for so long from a server that was started anew. By then the workers have reconnected to it and
published their events again."""
_CLOCK_SKEW = timedelta(seconds=2)
"""The server dates messages, and its clock may be behind ours by this much."""


class KnownServer:
    """The server of the connection, as far as it has been met."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._server_id = ""
        self._met_at = clock.now()
        self._ids_known_from = clock.now()
        self._pulled_from = 0.0

    def has_ids_from(self, at: datetime) -> None:
        """What the streams say of since when the server knows all message ids."""
        self._ids_known_from = at

    def is_met(self, server_id: str) -> bool:
        """Whether the connection is still to the server that was met last; to be checked before each pull."""
        return server_id == self._server_id

    def meet(self, server_id: str, *, in_cluster: bool) -> bool:
        """Notes that the connection is to this server now, which is not the one before. True when it may have forgotten
        deliveries."""
        forgot = bool(self._server_id) and not in_cluster
        if forgot:
            self._pulled_from = self._clock.monotonic() + SETTLE_S
            self._ids_known_from = self._clock.now() + REQUEST_IDS_KNOWN
        self._server_id = server_id
        self._met_at = self._clock.now()
        return forgot

    @property
    def is_settling(self) -> bool:
        """Nothing is pulled yet: others may still have to say what they are working on."""
        return self._clock.monotonic() < self._pulled_from

    def may_have_given(self, stored_at: datetime) -> bool:
        """Whether it may have given a message to a worker and forgotten that: it was stored before we met."""
        return stored_at < self._met_at + _CLOCK_SKEW

    def knew_ids(self, at: datetime) -> bool:
        """Whether it knew the ids of everything stored before, and would have dropped a copy."""
        return at >= self._ids_known_from
