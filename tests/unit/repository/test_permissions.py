"""The tables of permissions are complete, and published.

Routes and channels are read from the published documents, which tests/contract/test_documents.py holds in step with the
code: reading them costs a hundredth of making them.
"""

import json
import re
from typing import Any

import pytest

from tests.permissions import document as published
from tests.permissions.http import ENDPOINTS
from tests.permissions.subjects import COLUMNS, OTHER_AGENT, OTHER_POOL, SUBJECTS, USERS, matches

DOCS = published.PAGE.parent
OPENAPI: dict[str, Any] = json.loads((DOCS / "openapi.json").read_text())
ASYNCAPI: dict[str, Any] = json.loads((DOCS / "asyncapi.json").read_text())
ROUTES = [
    (method.upper(), path)
    for path, operations in OPENAPI["paths"].items()
    for method in operations
    if method in ("get", "put", "post", "delete", "patch")
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_has_a_row(method: str, path: str) -> None:
    of_route = re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
    rows = [row for row in ENDPOINTS if row.method == method and of_route.fullmatch(row.path.partition("?")[0])]

    assert rows, (
        f"add Endpoint({method!r}, {path!r}, …) to tests/permissions/http.py, one row for the callers' own tenant and "
        "one for another; make what it needs in fresh_objects of tests/integration/admin/test_permissions.py; "
        "then: make docs"
    )


@pytest.mark.parametrize("channel", [c["address"] for c in ASYNCAPI["channels"].values() if c["address"]])
def test_every_channel_has_a_row(channel: str) -> None:
    pattern = re.sub(r"\{\w+\}", "*", channel)

    assert any(matches(pattern, subject.name) for subject in SUBJECTS), (
        f"add a Subject like {channel} to tests/permissions/subjects.py, with the users that may publish to it and "
        "subscribe to it; then: make docs"
    )


GRANTS = [
    (name, verb, pattern)
    for name in COLUMNS
    if name not in (OTHER_AGENT, OTHER_POOL)
    for verb in ("publish", "subscribe")
    for pattern in getattr(USERS[name], verb)
]


@pytest.mark.parametrize(("user", "verb", "pattern"), GRANTS)
def test_every_grant_has_a_row(user: str, verb: str, pattern: str) -> None:
    granted = [subject.name for subject in SUBJECTS if user in (getattr(subject, verb) or ())]

    assert any(matches(pattern, name) for name in granted), (
        f"{user} may {verb} {pattern}: add a Subject that it covers to tests/permissions/subjects.py; then: make docs"
    )


def test_the_published_matrix_is_the_tested_one() -> None:
    text = published.PAGE.read_text()

    assert text == published.page(text), "run: make docs"
