"""Writes the tables of permissions into docs/security.md."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from tests.documents import generated
from tests.permissions.http import ENDPOINTS, Endpoint, Kind
from tests.permissions.subjects import COLUMNS, SECTIONS, Subject

PAGE = Path(__file__).parents[2] / "docs" / "security.md"


def page(text: str) -> str:
    """The page with its generated blocks made anew."""
    return generated(text, {"endpoints": _endpoints(), "subjects": "".join(_sections())})


def _endpoints() -> str:
    return _table(
        ("endpoint", *Kind),
        ((_named(row), *("✓" if kind in row.allowed else "—" for kind in Kind)) for row in ENDPOINTS),
    )


def _named(row: Endpoint) -> str:
    body = f" `{json.dumps(row.body)}`" if row.body else ""
    return f"`{row.method} {row.path}`{body}"


def _sections() -> Iterator[str]:
    for title, subjects in SECTIONS.items():
        rows = ((_together(alike), *rights) for rights, alike in groupby(subjects, _rights))
        yield f"\n#### {title}\n{_table(('subject', *(f'`{user}`' for user in COLUMNS)), rows)}"


def _rights(subject: Subject) -> tuple[str, ...]:
    """What each user may, as the table shows it."""
    verbs = (("P", subject.publish or ()), ("S", subject.subscribe))
    return tuple(" ".join(letter for letter, users in verbs if user in users) or "—" for user in COLUMNS)


def _together(subjects: Iterable[Subject]) -> str:
    return ", ".join(f"`{subject.name}`" for subject in subjects)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(columns)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
