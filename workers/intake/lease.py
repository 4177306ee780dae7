"""How long a worker may be sure that the requests it was given are its own.

JetStream gives a message to another worker `ack_wait` after the last sign of life that it got, and does not tell the
first one, nor refuse what that one says too late (as seen on nats-server 2.15.1). So a worker counts for itself, from
the last sign that the server is known to have. Who was stopped or cut off for longer may say to its end what it is
saying, and begins nothing: a second attempt would bear the number of its successor's.
"""

from collections.abc import Callable

from contracts import streams

_LASTS_S = streams.ACK_WAIT_S - 1.0
"""A second less than the server waits, for what a sign of life takes on its way."""


class Lost(Exception):
    """The request may be another worker's by now; nothing more is to be said or done for it here."""


class Leases:
    """The leases of all messages that one consumer has given to this worker. `clock` is monotonic, in seconds.

    They are renewed together, because a sign of life goes to all of them together. A term is the time over which they
    were renewed without a gap; what was given in an earlier term is lost for good.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._confirmed_at = clock()
        self._term = 0

    def confirmed(self, *, sent_at: float) -> None:
        """The server has every sign of life up to `sent_at`, and what it gives from now on it sends after that."""
        if sent_at - self._confirmed_at > _LASTS_S:
            self._term += 1
        self._confirmed_at = sent_at

    def lose(self) -> None:
        """The server may have forgotten whom it gave what."""
        self._term += 1

    def grant(self) -> "Lease":
        """For a message that has just come; it may have been on its way since the last confirmation."""
        return Lease(self, self._term)

    @property
    def in_doubt(self) -> bool:
        """The server has not been heard for as long as it waits for us."""
        return self._clock() - self._confirmed_at > _LASTS_S

    def hold(self, term: int) -> bool:
        return term == self._term and not self.in_doubt


class Lease:
    """Whether one delivery is still this worker's."""

    def __init__(self, leases: Leases, term: int) -> None:
        self._leases = leases
        self._term = term

    @property
    def holds(self) -> bool:
        return self._leases.hold(self._term)

    def check(self) -> None:
        """Raises Lost."""
        if not self.holds:
            raise Lost
