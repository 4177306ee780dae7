"""What a tenant will have spent by the end of a UTC day, if it goes on at the day's average."""

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

FIRST_AFTER = timedelta(hours=2)
"""Before, a few requests would foretell a fortune."""
_DAY = timedelta(days=1)


def at_end_of_day(spent: Decimal, *, now: datetime) -> Decimal | None:
    """What will be spent by midnight, in USD like `spent`; None while the day is too young to tell."""
    elapsed = now - datetime.combine(now.date(), time.min, UTC)
    if elapsed < FIRST_AFTER:
        return None
    return spent * Decimal(_DAY / timedelta(seconds=1)) / Decimal(elapsed / timedelta(seconds=1))
