"""What a recognised caller may see and change."""

import pytest

from admin_api.access.principals import Principal, Role
from admin_api.http.problems import Problem

ADMIN = Principal("a", Role.ADMIN)
TENANT_ADMIN = Principal("t", Role.TENANT_ADMIN, "acme")
VIEWER = Principal("v", Role.VIEWER, "acme")
VIEWER_OF_ALL = Principal("w", Role.VIEWER)


@pytest.mark.parametrize(
    ("caller", "tenant", "sees", "changes"),
    [
        (ADMIN, "acme", True, True),
        (ADMIN, None, True, True),
        (TENANT_ADMIN, "acme", True, True),
        (TENANT_ADMIN, "globex", False, False),
        (TENANT_ADMIN, None, False, False),
        (VIEWER, "acme", True, False),
        (VIEWER, "globex", False, False),
        (VIEWER, None, False, False),
        (VIEWER_OF_ALL, "acme", True, False),
        (VIEWER_OF_ALL, None, True, False),
    ],
)
def test_who_sees_and_changes_what(caller: Principal, tenant: str | None, sees: bool, changes: bool) -> None:
    assert (caller.sees(tenant), caller.changes(tenant)) == (sees, changes)


def test_a_tenant_admin_without_a_tenant_changes_nothing() -> None:
    assert not Principal("x", Role.TENANT_ADMIN).changes(None)


@pytest.mark.parametrize(
    ("caller", "asked", "filtered"),
    [
        (ADMIN, None, None),
        (ADMIN, "acme", "acme"),
        (TENANT_ADMIN, None, "acme"),
        (TENANT_ADMIN, "acme", "acme"),
        (VIEWER_OF_ALL, None, None),
    ],
)
def test_lists_are_narrowed_to_what_the_caller_sees(caller: Principal, asked: str | None, filtered: str | None) -> None:
    assert caller.scope(asked) == filtered


def test_asking_for_another_tenant_is_forbidden() -> None:
    with pytest.raises(Problem) as caught:
        VIEWER.scope("globex")

    assert caught.value.status == 403
