"""The software bill of materials: valid by its own schema, and the same as the pins."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def printed() -> str:
    command = [sys.executable, "requirements/sbom.py"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60).stdout


@pytest.fixture(scope="module")
def bill(printed: str) -> dict[str, Any]:
    return json.loads(printed)


def test_is_valid_cyclonedx(printed: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(printed) is None


def test_lists_what_is_pinned_with_its_hashes(bill: dict[str, Any]) -> None:
    from requirements import sbom

    listed = {
        part["name"]: (part["version"], {sha["content"] for ref in part["externalReferences"] for sha in ref["hashes"]})
        for part in bill["components"]
    }
    pinned = (ROOT / "requirements/runtime.txt").read_text()
    assert listed == {name: (version, set(hashes)) for name, (version, hashes) in sbom.pins(pinned).items()}
    assert sum(len(hashes) for _, hashes in listed.values()) == here(pinned).count("--hash=sha256:")


def here(lock: str) -> str:
    """What this machine installs of it."""
    entries = re.split(r"(?m)^(?=[a-z0-9])", lock)[1:]
    markers = [Requirement(entry.partition(" \\\n")[0]).marker for entry in entries]
    return "".join(entry for entry, marker in zip(entries, markers, strict=True) if not marker or marker.evaluate())


def test_every_component_has_a_licence_and_somebody_who_needs_it(bill: dict[str, Any]) -> None:
    needed = {ref for entry in bill["dependencies"] for ref in entry.get("dependsOn", ())}
    assert [part["name"] for part in bill["components"] if not part.get("licenses")] == []
    assert [part["name"] for part in bill["components"] if part["bom-ref"] not in needed] == []
