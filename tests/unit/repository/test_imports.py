"""What a process has loaded, as a process of its own sees it."""

import subprocess
import sys

import pytest

WORKER_NEVER = ("sqlalchemy", "asyncpg", "alembic", "migrations", "fastapi", "faststream")
COMMAND_LINE_NEVER = (
    *WORKER_NEVER,
    "contracts",
    "runtime",
    "workers",
    "admin_api",
    "hvac",
    "openai",
    "pydantic",
    "nats",
)
AGENT_NEVER = (*WORKER_NEVER, "runtime", "workers", "admin_api", "hvac", "openai", "cryptography", "typer", "rich")


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("workers.app", WORKER_NEVER),
        ("workers.providers.openai.adapter", WORKER_NEVER),
        ("fleet.commands.main", COMMAND_LINE_NEVER),
        ("fleet.client", AGENT_NEVER),
    ],
)
def test_a_process_loads_nothing_that_it_has_no_business_with(module: str, never: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert module.partition(".")[0] in loaded
    assert sorted(set(loaded) & set(never)) == []
