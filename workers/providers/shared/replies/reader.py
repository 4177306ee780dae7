"""What the readers of all formats have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from contracts.errors import FleetError, InvalidRequest, StreamInterrupted
from workers.providers.base import Chunk, Finish, Stated
from workers.providers.shared.errors.vendor_errors import Classify
from workers.providers.shared.replies.kept_size import KeptSize


class Reader(ABC):
    """Reads one reply in a vendor's format: bytes in, what they say out."""

    def __init__(self, *, provider: str, classify: Classify, warnings: Sequence[str] = ()) -> None:
        """`warnings`: what the caller asked for and was not sent."""
        self._provider = provider
        self._classify = classify
        self._warnings = tuple(warnings)
        self._kept = KeptSize()
        self.stated: Stated | None = None
        """What the vendor has said of its bill; another object when it has said more."""
        self.error: FleetError | None = None
        """What the vendor reported inside its reply, or why the reply is not whole."""
        self.done = False
        """Nothing more will come."""

    @property
    def finished(self) -> bool:
        """The vendor's end marker was seen. What may still come is usage."""
        return self.done

    @property
    def keeps_too_much(self) -> bool:
        """What the vendor wants back is more than a message holds; it is not whole any more."""
        return self._kept.is_too_large

    @abstractmethod
    def feed(self, data: bytes) -> Chunk | None:
        """The output in `data`, merged; None when it held none. Raises EventTooLarge."""

    @abstractmethod
    def end(self) -> Chunk | None:
        """What was still incomplete when the connection ended in good order, or in any order behind the end marker."""

    @abstractmethod
    def finish(self) -> Finish:
        """What ends the reply, once its end marker was seen."""

    def _keep(self, text: bytes) -> bool:
        """Whether something of a JSON text may be kept until the reply's end, with all that is kept already."""
        self._kept.add(text)
        return not self.keeps_too_much

    def _refuse(self, why: str) -> None:
        """Ends a reply that is too large: another try would end the same, and cost as much."""
        self.error = InvalidRequest(f"{self._provider} {why}", provider=self._provider)

    def _interrupt(self, why: str) -> None:
        self.error = StreamInterrupted(f"{self._provider} {why}", provider=self._provider)
