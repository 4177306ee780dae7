"""How code of the repository becomes code of the wheel, where everything lies below `fleet`."""

import pytest


@pytest.mark.parametrize(
    ("code", "moved"),
    [
        ("from contracts import subjects\n", "from fleet.contracts import subjects\n"),
        ("from contracts.errors import (\n    Error,\n)\n", "from fleet.contracts.errors import (\n    Error,\n)\n"),
        ("def f():\n    from workers import app as a\n", "def f():\n    from fleet.workers import app as a\n"),
        ("é = 1; from runtime import logs\n", "é = 1; from fleet.runtime import logs\n"),
        ("from workers import a; from runtime import b", "from fleet.workers import a; from fleet.runtime import b"),
    ],
)
def test_imports_lead_below_the_package(code: str, moved: str) -> None:
    from requirements import backend

    assert backend.rewritten(code, "module.py") == moved


@pytest.mark.parametrize(
    "code",
    [
        "from fleet.client import Client\n",
        "from . import errors\nfrom .contracts import errors\n",
        "import workers_of_others\nfrom contracts_of_others import a\n",
        '"""Raises `contracts.errors.FleetError`; from contracts.errors import it."""\n',
        'kinds = {"workers": "runtime", "contracts": 1}\n',
        'told = "from contracts import errors"\n',
        "def f(contracts):\n    return contracts.errors\n",
    ],
)
def test_nothing_else_changes(code: str) -> None:
    from requirements import backend

    assert backend.rewritten(code, "module.py") == code


@pytest.mark.parametrize(
    "code",
    [
        "import contracts.errors\n",
        "import os, workers\n",
        "import runtime.logs as logs\n",
        'import_module("workers.providers.openai.adapter")\n',
        'import_module(f"workers.providers.{name}")\n',
    ],
)
def test_what_would_lead_nowhere_is_refused(code: str) -> None:
    from requirements import backend

    with pytest.raises(backend.NotMovable, match=r"module\.py:1"):
        backend.rewritten(code, "module.py")
