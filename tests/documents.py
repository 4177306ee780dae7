"""The Markdown documents as tests read them: their tables and what they quote as code."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.repository import ROOT, files

README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
BILLING = ROOT / "docs" / "billing.md"
CONTRACT = ROOT / "docs" / "contract.md"
DEPENDENCIES = ROOT / "docs" / "dependencies.md"
DEVELOPMENT = ROOT / "docs" / "development.md"
GUARANTEES = ROOT / "docs" / "guarantees.md"
OPERATIONS = ROOT / "docs" / "operations.md"
PROVIDERS = ROOT / "docs" / "providers.md"

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"`([^`\n]+)`")
_GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_CELLS = re.compile(r"(?<!\\)\|")


def documents() -> list[Path]:
    """README and everything below docs/."""
    return [README, *(path for path in files() if path.suffix == ".md" and path.is_relative_to(ROOT / "docs"))]


def section(page: Path, title: str) -> str:
    """What stands under a heading, without what stands under the next one of its rank."""
    text = page.read_text()
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,6}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {title!r}"
    return found[2]


def generated(text: str, parts: Mapping[str, str]) -> str:
    """A page in which each generated part, between its two comments, is the one of that name."""
    return _GENERATED.sub(lambda part: f"{part[1]}\n{parts[part[2]].strip()}\n\n{part[3]}", text)


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the one table whose first line is `head`."""
    lines = text.splitlines()
    assert lines.count(head) == 1, f"there is not one table that begins with {head!r}"
    below = lines[lines.index(head) + 2 :]
    end = next((number for number, line in enumerate(below) if not line.startswith("|")), len(below))
    return [[cell.strip() for cell in _CELLS.split(line)[1:-1]] for line in below[:end]]


def quoted(text: str) -> list[str]:
    """What stands in backticks within a line."""
    return _QUOTED.findall(_FENCED.sub("", text))


def fenced(text: str, language: str) -> Iterator[str]:
    """The blocks of code in a language."""
    return (body for said, body in _FENCED.findall(text) if said == language)
