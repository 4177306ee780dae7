"""docs/dependencies.md names what pyproject.toml asks for, and the rooms that import it."""

import re

from tests.documents import DEPENDENCIES, rows
from tests.repository import distribution, import_names, imports, modules, name, prefixes, project

HEAD = "| dependency | for | imported by | why not another |"
ROOMS = ("contracts", "runtime", "migrations", "workers", "workers/usage", "admin_api", "fleet")
"""The usage consumer is a role of its own, with dependencies of its own."""
ELSEWHERE = ("requirements", "tests", "benchmarks")
"""Named for what no room imports."""


def test_the_table_names_what_is_asked_for_and_nothing_else() -> None:
    named = [dist for row in rows(DEPENDENCIES.read_text(), HEAD) for dist in _distributions(row[0])]
    asked = {dist for extra in project().values() for dist in extra}

    missing = asked - set(named)
    assert not missing, f"pyproject.toml asks for {sorted(missing)}: give each a row in docs/dependencies.md"
    gone = set(named) - asked
    assert not gone, f"pyproject.toml does not ask for {sorted(gone)}: take them out of docs/dependencies.md"
    assert len(named) == len(set(named))


def test_the_table_names_the_rooms_that_import_a_dependency() -> None:
    wrong = {
        row[0]: importers
        for row in rows(DEPENDENCIES.read_text(), HEAD)
        if (importers := _importers(_distributions(row[0]))) != row[2]
    }
    assert not wrong, "the column `imported by` of docs/dependencies.md has to be: " + str(wrong)


def test_one_row_is_for_dependencies_that_the_same_rooms_import() -> None:
    mixed = [
        row[0]
        for row in rows(DEPENDENCIES.read_text(), HEAD)
        if len({importers for dist in _distributions(row[0]) if (importers := _importers([dist]))}) > 1
    ]
    assert not mixed, f"docs/dependencies.md: not everything in {mixed} is imported by the same rooms; part the rows"


def _distributions(cell: str) -> list[str]:
    return [distribution(part) for part in re.sub(r"\(.*?\)", "", cell).split(", ")]


def _importers(dists: list[str]) -> str:
    """`contracts, workers`; empty when nothing imports them."""
    wanted = {top for dist in dists for top in import_names(dist)}
    by = {_place(name(path)) for path in modules() if any(wanted & {*prefixes(dotted)} for dotted in imports(path))}
    rooms = [room for room in ROOMS if room in by]
    return ", ".join(rooms or [place for place in ELSEWHERE if place in by][:1])


def _place(path: str) -> str:
    return max((place for place in (*ROOMS, *ELSEWHERE) if path.startswith(f"{place}/")), key=len)
