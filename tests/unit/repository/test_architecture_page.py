"""docs/architecture.md: its map is that of the code, and each place that it sends a reader to is there."""

import re

import pytest

from tests import architecture
from tests.documents import ARCHITECTURE, quoted, rows, section
from tests.repository import ROOMS, ROOT, modules, name
from tests.way import returns, steps

PLACES = rows(section(ARCHITECTURE, "Which file to open"), "| for | open | and |")


def test_the_map_is_current() -> None:
    text = ARCHITECTURE.read_text()
    assert text == architecture.page(text), "write it anew: make docs"


def test_a_reader_of_the_way_of_a_request_turns_pages_and_does_not_search_the_house() -> None:
    assert len(steps()) <= 30
    assert returns(steps()) <= 12


def test_every_module_says_what_it_is_for() -> None:
    rooms = [path for path in modules() if path.relative_to(ROOT).parts[0] in ROOMS]
    assert [name(path) for path in rooms if not architecture.summary(path)] == []


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[0])
def test_a_place_to_open_is_there_and_has_what_is_named(place: list[str]) -> None:
    named = [text for cell in place[1:] for text in quoted(cell)]
    paths = [ROOT / text for text in named if "/" in text]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))]
    assert [str(path) for path in paths if not path.exists()] == []

    texts = " ".join(file.read_text() for file in files)
    missing = [
        text
        for text in named
        if "/" not in text
        and not (text in {file.name for file in files} or re.search(rf"\b{re.escape(text)}\b", texts))
    ]
    assert missing == [], "none of the files in this row has it"


def test_the_page_names_whoever_acts_after_a_reconnect() -> None:
    table = rows(section(ARCHITECTURE, "After a reconnect"), "| role | in this order | what it does |")
    registered = {
        name(path)
        for path in modules()
        if path.relative_to(ROOT).parts[0] in ROOMS and ".on_reconnect.append(" in path.read_text()
    }
    assert {place for row in table for place in quoted(row[1])} == registered
