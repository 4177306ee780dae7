"""Prints the software bill of materials of the image as CycloneDX JSON: everything that `runtime.txt` pins.

Versions and hashes are those of the pins; licences, and who needs whom, are what the installed packages say.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from cyclonedx import spdx
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "fleet"
EXTRAS = ("worker", "usage", "admin", "cli")
"""Of the image, as lock.sh asks for them."""
PINS = Path(__file__).with_name("runtime.txt")

_PIN = re.compile(
    r"(?m)^(?P<name>[\w.-]+)==(?P<version>[\w.+!-]+)(?: ; (?P<marker>[^\n\\]+))?.*"
    r"(?P<hashes>(?:\n {4}--hash=sha256:[0-9a-f]{64}.*)+)"
)

Pins = dict[str, tuple[str, list[str]]]
"""Version and hashes, by name."""


def main() -> None:
    print(json.dumps(bill(pins(PINS.read_text()), at=datetime.now(UTC)), indent=2))  # noqa: T201


def pins(text: str) -> Pins:
    """Those that this machine installs: a lock also holds what another one needs."""
    return {
        canonicalize_name(pin["name"]): (pin["version"], re.findall(r"sha256:([0-9a-f]{64})", pin["hashes"]))
        for pin in _PIN.finditer(text)
        if not pin["marker"] or Marker(pin["marker"]).evaluate()
    }


def bill(pinned: Pins, *, at: datetime) -> dict[str, Any]:
    root = _component("application", ROOT, distribution(ROOT).version)
    components = {name: _component("library", name, version) for name, (version, _) in pinned.items()}
    for name, (_, hashes) in pinned.items():
        components[name]["externalReferences"] = [_files(components[name]["purl"], hashes)]
    references = {name: component["bom-ref"] for name, component in (*components.items(), (ROOT, root))}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": at.isoformat(), "component": root},
        "components": list(components.values()),
        "dependencies": [
            {"ref": references[name], "dependsOn": sorted(references[other] for other in needed)}
            for name, needed in _needs(pinned).items()
        ],
    }


def _component(kind: str, name: str, version: str) -> dict[str, Any]:
    url = f"pkg:pypi/{name}@{version}"
    licences = _licences(distribution(name))
    return {"type": kind, "bom-ref": url, "name": name, "version": version, "purl": url, "licenses": licences}


def _files(url: str, hashes: list[str]) -> dict[str, Any]:
    """The files that may be installed."""
    return {"type": "distribution", "url": url, "hashes": [{"alg": "SHA-256", "content": sha} for sha in hashes]}


def _licences(of: Distribution) -> list[dict[str, Any]]:
    """What a package says of its licence: the newer field, else its classifiers, else the older field."""
    classifiers = [c for c in of.metadata.get_all("Classifier") or () if c.startswith("License ::")]
    said = (
        of.metadata.get_all("License-Expression")
        or [c.rpartition(" :: ")[2] for c in classifiers]
        or [text.strip().splitlines()[0] for text in of.metadata.get_all("License") or ()]
    )
    if len(said) == 1 and spdx.is_expression(said[0]):
        return [{"expression": said[0]}]
    return [{"license": {"id": known} if (known := spdx.fixup_id(text)) else {"name": text}} for text in said]


def _needs(pinned: Pins) -> dict[str, set[str]]:
    """Who needs whom, from the root on, with the extras that are asked for."""
    found: dict[str, set[str]] = {name: set() for name in (ROOT, *pinned)}
    followed: set[tuple[str, str]] = set()
    waiting = [(ROOT, extra) for extra in ("", *EXTRAS)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in followed:
            continue
        followed.add((name, extra))
        for requirement in _requirements(name, extra):
            other = canonicalize_name(requirement.name)
            if other in found:
                waiting += [(other, more) for more in ("", *requirement.extras)]
                found[name] |= {other} - {ROOT}
    return found


def _requirements(name: str, extra: str) -> Iterator[Requirement]:
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        if not requirement.marker or requirement.marker.evaluate({"extra": extra}):
            yield requirement


if __name__ == "__main__":
    main()
