"""Lock files, as tests read them."""

import re
from dataclasses import dataclass

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    marker: Marker | None


def pins(text: str) -> list[Pin]:
    return [_pin(line) for line in re.findall(r"(?m)^([A-Za-z0-9].*?) \\$", text)]


def _pin(line: str) -> Pin:
    requirement = Requirement(line)
    (exact,) = requirement.specifier
    return Pin(canonicalize_name(requirement.name), exact.version, requirement.marker)
