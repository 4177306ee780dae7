"""What an attempt cost: the tenant's own price, else the catalogue's (genai-prices, bundled, offline)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from contracts.providers import Price
from contracts.usage import PriceSource, Usage


@dataclass(frozen=True, slots=True)
class Priced:
    """USD. `amount` is None, and `source` NONE, when no price is known; that is not the same as free."""

    amount: Decimal | None
    source: PriceSource


def price(usage: Usage, *, provider: str, model: str, at: datetime, overrides: Mapping[str, Price]) -> Priced:
    raise NotImplementedError


def context_window(provider: str, model: str) -> int | None:
    raise NotImplementedError
