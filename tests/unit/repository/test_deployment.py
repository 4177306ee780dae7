"""What operators deploy: valid by its own schema, hardened, and in step with the code."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from admin_api.settings import AdminSettings
from fleet.deploy import vault_policies
from runtime.settings import DatabaseSettings, RoleSettings
from tests import compose
from workers.providers import registry
from workers.settings import WorkerSettings
from workers.usage.settings import UsageSettings

ROOT = Path(__file__).parents[3]
FILE = compose.read()
SERVICES: dict[str, Any] = FILE["services"]
WORKERS = [name for name in SERVICES if name.startswith("worker-")]
ROLES = ["migrate", "admin", "usage", *WORKERS]
OPTIONAL = ("LLM_ENCRYPTION_KEY_PREVIOUS", "NATS_JETSTREAM_KEY_PREVIOUS", "LLM_SMTP_PASSWORD", "VAULT_SECRET_ID_RESEAL")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|DATABASE_URL")
PROVIDERS = sorted(registry.available())


def settings_of(role: str) -> type[RoleSettings]:
    return {"migrate": DatabaseSettings, "admin": AdminSettings, "usage": UsageSettings}.get(role, WorkerSettings)


def test_compose_fits_the_compose_specification() -> None:
    from jsonschema import Draft202012Validator

    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text())
    errors = [f"{list(e.path)}: {e.message}" for e in Draft202012Validator(schema).iter_errors(FILE)]
    assert errors == []


def test_there_is_one_worker_service_for_each_provider() -> None:
    assert sorted(WORKERS) == [f"worker-{provider}" for provider in PROVIDERS]
    for provider in PROVIDERS:
        assert SERVICES[f"worker-{provider}"]["command"] == ["worker", "--provider", provider]


@pytest.mark.parametrize("name", WORKERS)
def test_workers_can_be_scaled(name: str) -> None:
    assert SERVICES[name].keys().isdisjoint({"container_name", "hostname", "ports"})


@pytest.mark.parametrize("name", WORKERS)
def test_there_is_no_way_from_a_worker_to_the_database(name: str) -> None:
    assert set(SERVICES[name]["networks"]).isdisjoint(SERVICES["postgres"]["networks"])
    assert "DATABASE_URL" not in SERVICES[name]["environment"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == ("no" if name in ("migrate", "vault-init") else "unless-stopped")
    assert "privileged" not in service
    if name != "postgres":  # its image starts as root and becomes the server's user
        assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in ("migrate", "vault-init")])
def test_a_service_says_when_it_is_well(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_can_come_true(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        match how["condition"]:
            case "service_healthy":
                assert "healthcheck" in SERVICES[other]
            case "service_completed_successfully":
                assert SERVICES[other]["restart"] == "no"
            case condition:
                assert condition == "service_started"


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_from_the_environment_and_are_required(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(variable) and variable not in OPTIONAL:
            assert re.search(r"\$\{[A-Z_]+:\?", value), variable


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_the_loopback_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_a_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image == "fleet:local" or re.search(r":\d", image)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_each_of_its_variables(role: str) -> None:
    known = {field.upper() for field in settings_of(role).model_fields}
    assert set(SERVICES[role]["environment"]) - known == set()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_every_variable_that_it_needs(role: str) -> None:
    needed = {field.upper() for field, about in settings_of(role).model_fields.items() if about.is_required()}
    assert needed - set(SERVICES[role]["environment"]) == set()


def test_the_example_of_the_environment_is_whole() -> None:
    assert compose.env_example().keys() == compose.variables(FILE).keys()


def test_the_example_of_the_environment_holds_no_secret() -> None:
    assert [name for name, value in compose.env_example().items() if value and SECRET.search(name)] == []


@pytest.mark.parametrize("missing", [name for name, required in compose.variables(FILE).items() if required])
def test_compose_refuses_to_start_without(missing: str) -> None:
    given = {name: "x" for name in compose.variables(FILE) if name != missing}
    with pytest.raises(KeyError, match=missing):
        compose.fill_in(FILE, given)


def test_the_nats_configuration_is_current() -> None:
    arguments = [part for provider in PROVIDERS for part in ("--provider", provider)]
    command = [sys.executable, "-m", "fleet", "nats-config", "--tenant", "demo", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60).stdout
    assert (ROOT / "deploy/nats/nats.conf").read_text() == printed


def test_every_secret_of_nats_is_given() -> None:
    wanted = set(re.findall(r"\$(NATS_\w+)", (ROOT / "deploy/nats/nats.conf").read_text()))
    assert set(SERVICES["nats"]["environment"]) == wanted


def test_the_vault_policies_are_current() -> None:
    kept = {path.stem: path.read_text() for path in (ROOT / "deploy/vault/policies").glob("*.hcl")}
    assert kept == vault_policies.policies(PROVIDERS)


def test_every_vault_role_gets_its_secret() -> None:
    roles = vault_policies.policies(PROVIDERS)
    wanted = {f"VAULT_SECRET_ID_{role.upper().replace('-', '_')}" for role in roles}
    assert {name for name in SERVICES["vault-init"]["environment"] if SECRET.search(name)} == wanted


def test_the_image_holds_every_room() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for room in ("contracts", "runtime", "migrations", "workers", "admin_api", "fleet"):
        assert f"COPY {room} {room}\n" in dockerfile
        assert f"!{room}" in allowed
    assert "python requirements/install.py --venv /opt/fleet --compile runtime" in dockerfile
    assert {"!requirements/*.txt", "!requirements/install.py"} <= set(allowed)
    assert "USER 10001:10001" in dockerfile


OPERATIONS = (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("role", ["migrate", "admin", "usage", "worker"])
def test_every_setting_of_a_role_is_documented(role: str) -> None:
    undocumented = [field for field in settings_of(role).model_fields if f"`{field.upper()}`" not in OPERATIONS]
    assert undocumented == []
