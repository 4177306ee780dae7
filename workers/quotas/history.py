"""How long a tenant's answers of a model usually are: what a budget has to keep free in all likelihood.

In the memory of each worker, because it is a guess only: a hold that turns out too small grows. What one tenant can put
here is bounded, so that none pushes out another's.
"""

import math
from collections import OrderedDict, deque

ENOUGH = 8
"""Fewer answers say nothing about the next one."""
_KEPT = 32
"""Answers of a model that are looked at, the newest ones."""
_MODELS_PER_TENANT = 64
_TENANTS = 4096
_MOST_ARE_SHORTER = 0.9
_MARGIN = 1.25
_MOST_PER_ESTIMATED = 4.0
"""A token is a byte at least, and the estimate takes it for four."""


class History:
    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[str, deque[tuple[int, float]]]] = OrderedDict()

    def note(self, tenant: str, model: str, *, tokens: int, estimated: int) -> None:
        """An answer that is whole: the output tokens that the vendor billed, and what they were estimated at while it
        arrived. `model` is `provider/model`."""
        models = self._tenants.setdefault(tenant, OrderedDict())
        self._tenants.move_to_end(tenant)
        answers = models.setdefault(model, deque(maxlen=_KEPT))
        models.move_to_end(model)
        answers.append((tokens, min(max(tokens / estimated if estimated else 1.0, 1.0), _MOST_PER_ESTIMATED)))
        if len(models) > _MODELS_PER_TENANT:
            models.popitem(last=False)
        if len(self._tenants) > _TENANTS:
            self._tenants.popitem(last=False)

    def likely_tokens(self, tenant: str, model: str) -> int | None:
        """So many output tokens, or less, the next answer most likely has; None: too few answers to tell."""
        answers = self._answers(tenant, model)
        if len(answers) < ENOUGH:
            return None
        lengths = sorted(tokens for tokens, _ in answers)
        return max(1, math.ceil(lengths[int(len(lengths) * _MOST_ARE_SHORTER)] * _MARGIN))

    def tokens_per_estimated(self, tenant: str, model: str) -> float:
        """How many tokens were billed for one that was estimated, 1 at least: of the densest of the last answers."""
        return max((density for _, density in self._answers(tenant, model)), default=1.0)

    def _answers(self, tenant: str, model: str) -> deque[tuple[int, float]]:
        return self._tenants.get(tenant, {}).get(model, deque())
