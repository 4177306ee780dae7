"""What is delivered, where to, and when it is tried again. Nothing here does it."""

import random
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID


class Channel(StrEnum):
    NATS = "nats"
    WEBHOOK = "webhook"
    EMAIL = "email"


Target = tuple[Channel, UUID | None]
"""What gets one notice at a time; a webhook by its id."""


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a webhook is, and its secret as it is stored."""

    id: UUID
    tenant: str | None
    url: str = field(repr=False)
    sealed_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One notice for one target, in our hands until its lease ends."""

    delivery: int
    channel: Channel
    attempts: int
    """How often it was tried, this time included."""
    notice_id: UUID
    kind: str
    tenant: str | None
    event: bytes = field(repr=False)
    hook: Hook | None = None
    """Where to deliver on the channel `webhook`; None on the others, and when the webhook is gone."""
    emails: tuple[str, ...] = field(default=(), repr=False)
    """Where the tenant wants its alerts."""

    @property
    def target(self) -> Target:
        return self.channel, self.hook.id if self.hook else None


class Undelivered(Exception):
    """It did not arrive. The message names no URL: there may be a secret in it."""

    def __init__(self, why: str, *, again: bool = True, status: int | None = None) -> None:
        super().__init__(why)
        self.again = again
        """Whether another try may succeed."""
        self.status = status
        """The status of the answer; None when there was none."""


class Sender(Protocol):
    async def send(self, outgoing: Outgoing) -> None:
        """Returns when it has arrived. Raises Undelivered."""
        ...


@dataclass(frozen=True, slots=True)
class Retries:
    """When an undelivered notice is tried again: after pauses that grow, with jitter.

    Nine pauses make about four hours together, then a notice is given up. NATS is tried for ever and often, so that it
    gets what it is owed however long it was away, and soon after it is back.
    """

    first_s: float = 5.0
    factor: float = 3.0
    longest_s: float = 3600.0
    longest_nats_s: float = 30.0
    tries: int = 10

    def pause(self, channel: Channel, *, tried: int) -> timedelta | None:
        """The pause before the next try, half to all of its length; None when there is no next one."""
        is_nats = channel is Channel.NATS
        if not is_nats and tried >= self.tries:
            return None
        longest_s = self.longest_nats_s if is_nats else self.longest_s
        pause_s = min(longest_s, self.first_s * self.factor ** min(tried - 1, 30))
        return timedelta(seconds=random.uniform(pause_s / 2, pause_s))
