"""How much of what is scarce one tenant may have, and one of its agents: thresholds that move with what is free.

Whoever has less than a multiple of what is free may have more (A. K. Choudhury and E. L. Hahne, "Dynamic queue length
thresholds for shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998). One tenant alone gets
nearly all. The more of them take all they can, the less each of them gets, and something stays free for those who have
little: they find it at once, also where nothing that is taken is ever given back. The agents of a tenant divide what
their tenant may still have in the same way, so that a tenant gains nothing by inventing agents.
"""

from collections import Counter

from workers.intake.asker import Asker


class Shares:
    """So many slots or bytes, and who has them."""

    def __init__(self, total: int, *, of_tenant: float | None, of_agent: float) -> None:
        """A tenant may have `of_tenant` times what is free, an agent `of_agent` times what its tenant may still have.

        So n tenants that take all they can have `of_tenant / (1 + n * of_tenant)` of the total each. None: whoever
        comes first may have everything.
        """
        self._total = total
        self._of_tenant = of_tenant
        self._of_agent = of_agent
        self._of_tenants: Counter[str] = Counter()
        self._of_agents: Counter[Asker] = Counter()
        self.taken = 0

    def may_take(self, asker: Asker, amount: int = 1) -> bool:
        """Whether there is room for it. Who has nothing yet may have whatever is free."""
        if not self.tenant_may_take(asker.tenant, amount):
            return False
        has = self._of_tenants.get(asker.tenant, 0)
        of_agent = self._of_agents.get(asker, 0)
        if self._of_tenant is None or not has or not of_agent:
            return True
        left = self._of_tenant * (self._total - self.taken) - has
        return of_agent + amount <= self._of_agent * (left - amount * (1 + self._of_tenant))

    def tenant_may_take(self, tenant: str, amount: int = 1) -> bool:
        """Whether there is room for it with at least one of the tenant's agents: one that has nothing yet."""
        free = self._total - self.taken
        has = self._of_tenants.get(tenant, 0)
        if self._of_tenant is None or not has:
            return amount <= free
        return amount <= free and amount <= self._of_tenant * free - has

    def take(self, asker: Asker, amount: int = 1) -> None:
        self._change(asker, amount)

    def give_back(self, asker: Asker, amount: int = 1) -> None:
        self._change(asker, -amount)

    def _change(self, asker: Asker, amount: int) -> None:
        self.taken += amount
        self._of_tenants[asker.tenant] += amount
        self._of_agents[asker] += amount
        if not self._of_agents[asker]:
            del self._of_agents[asker]
        if not self._of_tenants[asker.tenant]:
            del self._of_tenants[asker.tenant]
