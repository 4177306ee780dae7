"""README and docs/ name nothing that is not there: commands, options, settings, metrics, tests, files, links."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main

from admin_api.settings import AdminSettings
from contracts.subjects import Provider
from fleet.commands import main
from runtime.settings import DatabaseSettings, RoleSettings
from tests.documents import CONTRACT, OPERATIONS, README, documents, fenced, quoted, rows, section
from tests.repository import ROOMS, ROOT, files, modules, name
from workers.settings import WorkerSettings
from workers.usage.settings import UsageSettings

UNFINISHED = re.compile(
    r"\byet\b|\bplanned\b|\bTO" + r"DO\b|\bnot (?:implemented|enforced)\b|\bcoming soon\b|"
    r"\b(?:later|future) (?:version|release)s?\b|\bwork in progress\b",
    re.IGNORECASE,
)
LINK = re.compile(r"\[[^\]]*\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
COMMAND = re.compile(r"^(?:\.venv/bin/)?fleet ([a-z][^>|&;]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
TARGET = re.compile(r"^make ([a-z]+)\b")
MODULE = re.compile(r"\bpython -m ((?:benchmarks|contracts|admin_api|tests|fleet|workers|runtime)[\w.]*)")
PATH = re.compile(r"^(?:\.ci|deploy|docs|tests|benchmarks|requirements|" + "|".join(ROOMS) + r")/[\w./-]+$")
TEST = re.compile(r"\btest_\w+\b")
VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
METRIC = re.compile(r"^fleet_[a-z_]+\b(?!\.)")
ROLES: dict[str, type[RoleSettings]] = {
    "migrate": DatabaseSettings,
    "admin": AdminSettings,
    "usage": UsageSettings,
    "worker": WorkerSettings,
}
FOREIGN_OPTIONS = {"--build", "--wait", "--scale", "--no-deps", "--upgrade"}
"""Of other programs, where a document names them without their command."""
FOREIGN_VARIABLES = {"OLLAMA_CONTEXT_LENGTH", "PR_SET_PDEATHSIG"}
"""A setting of Ollama's own, and a constant of Linux."""


@pytest.fixture(params=documents(), ids=name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_nothing_is_put_off(page: Path) -> None:
    lines = [line for line in page.read_text().splitlines() if UNFINISHED.search(line)]
    assert lines == [], "a document says what is, not what will be"


@pytest.mark.parametrize("path", [path for path in files() if path.suffix == ".md"], ids=name)
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken = [
        f"{target}#{anchor}"
        for target, anchor in LINK.findall(path.read_text())
        if not _leads(path.parent / target if target else path, anchor)
    ]
    assert broken == []


def test_every_command_exists(page: Path) -> None:
    wrong = [command for command in _commands(page) if not _path(command)]
    assert wrong == [], "`fleet --help` knows no such command"


def test_every_option_exists(page: Path) -> None:
    wrong = [
        f"{command}: {option}"
        for command in _commands(page)
        for option in OPTION.findall(command)
        if option not in _options(_path(command))
    ]
    bare = {option for text in quoted(page.read_text()) if text.startswith("--") for option in OPTION.findall(text)}
    everywhere = {option for path in _tree() for option in _options(path)}
    assert wrong == []
    assert bare - everywhere - FOREIGN_OPTIONS == set()


def test_every_target_of_make_exists(page: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    assert {found[1] for text in _code(page) if (found := TARGET.match(text))} - targets == set()


def test_every_module_to_run_exists(page: Path) -> None:
    named = {ROOT.joinpath(*dotted.split(".")) for dotted in MODULE.findall(page.read_text())}
    assert [path for path in named if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file())] == []


def test_every_path_exists(page: Path) -> None:
    assert [text for text in quoted(page.read_text()) if PATH.match(text) and not (ROOT / text).exists()] == []


def test_every_test_that_is_named_exists(page: Path) -> None:
    assert {*TEST.findall(page.read_text())} - _tests() == set(), "name the tests that show it now"


def test_every_variable_is_known_to_the_code(page: Path) -> None:
    named = {variable for text in _code(page) for variable in VARIABLE.findall(text)}
    assert named - _names_in_code() - FOREIGN_VARIABLES == set(), "nothing reads or defines these"


def test_every_metric_is_measured(page: Path) -> None:
    named = {found[0] for text in quoted(page.read_text()) if (found := METRIC.match(text))}
    assert named - _metrics() == set()


def test_every_metric_is_in_the_table() -> None:
    named = {metric for row in rows(OPERATIONS.read_text(), "| metric | |") for metric in quoted(row[0])}
    assert named == _metrics()


def test_every_setting_is_in_the_table_with_the_roles_that_read_it() -> None:
    wrong = {
        variable: readers
        for variables, roles, _ in _settings()
        for variable in variables
        if (readers := {role for role, fields in _fields().items() if variable in fields}) != roles
    }
    assert not wrong, f"the column `roles` of the table of settings has to name {wrong}"
    named = {variable for variables, _, _ in _settings() for variable in variables}
    assert named >= {variable for fields in _fields().values() for variable in fields}


def test_the_table_of_settings_has_each_number_that_is_a_default() -> None:
    wrong = {
        variable: default
        for variables, _, meaning in _settings()
        for variable in variables
        for default in {fields[variable] for fields in _fields().values() if variable in fields}
        if default and not re.search(rf"\b{re.escape(default)}\b", meaning)
    }
    assert not wrong, f"these are the defaults, the table of settings says others: {wrong}"


def test_every_command_is_in_the_contract() -> None:
    table = rows(section(CONTRACT, "Commands"), "| command | |")
    named = {_path(command.removeprefix("fleet ")) for row in table for command in quoted(row[0])}
    assert named == set(_tree())


def test_the_options_in_the_contract_are_those_of_their_command() -> None:
    for what, meaning in rows(section(CONTRACT, "Commands"), "| command | |"):
        options = {option for c in quoted(what) for option in _options(_path(c.removeprefix("fleet ")))}
        assert {option for text in quoted(meaning) for option in OPTION.findall(text)} - options == set(), what


@pytest.mark.parametrize("decision", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=name)
def test_a_decision_has_its_number_and_its_three_parts(decision: Path) -> None:
    number, text = decision.name.partition("-")[0], decision.read_text()
    assert re.match(rf"# {number} [^\n.]+\n\n\*\*Context\.\*\* ", text)
    assert re.findall(r"(?m)^\*\*(.+?)\*\*", text) == ["Context.", "Decision.", "Consequences."]


def test_the_readme_names_every_provider() -> None:
    table = rows(section(README, "Status"), "| provider | |")
    assert sorted(provider for row in table for provider in quoted(row[0])) == sorted(Provider)


def _leads(path: Path, anchor: str) -> bool:
    return path.exists() and (not anchor or anchor in _anchors(path))


@cache
def _anchors(page: Path) -> set[str]:
    """Those that GitHub gives to headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def _code(page: Path) -> tuple[str, ...]:
    """What stands in backticks, and the lines of blocks for a shell."""
    text = page.read_text()
    return (*quoted(text), *(line.split(" #")[0] for block in fenced(text, "sh") for line in block.splitlines()))


def _commands(page: Path) -> list[str]:
    """`chat "Why?" --model M` of `fleet chat "Why?" --model M`."""
    return [found[1] for text in _code(page) if (found := COMMAND.match(text))]


@cache
def _tree() -> dict[str, Any]:
    """Every command by its words, as `usage report`."""
    found: dict[str, Any] = {}

    def add(path: str, command: Any) -> None:
        if not isinstance(command, typer.core.TyperGroup) or command.invoke_without_command:
            found[path] = command
        if isinstance(command, typer.core.TyperGroup):
            for word, child in command.commands.items():
                add(f"{path} {word}".strip(), child)

    add("", typer.main.get_command(main.app))
    return found


def _path(command: str) -> str:
    """The longest path that the command's words begin with; empty when there is none."""
    words = command.split()
    paths = (" ".join(words[:end]) for end in range(len(words), 0, -1))
    return next((path for path in paths if path in _tree()), "")


def _options(path: str) -> set[str]:
    command = _tree().get(path)
    params = command.params if command else []
    return {option for parameter in params for option in (*parameter.opts, *parameter.secondary_opts)}


@cache
def _tests() -> set[str]:
    """The names of test functions and of their files."""
    defined = (re.findall(r"def (test_\w+)\(", path.read_text()) for path in modules() if "tests" in path.parts)
    return {path.stem for path in modules()} | {function for functions in defined for function in functions}


@cache
def _names_in_code() -> set[str]:
    """Names in capitals of everything but the documents; a setting is a field of the same name in small letters."""
    texts = [path.read_text(errors="replace") for path in files() if path.suffix != ".md"]
    settings = {field.upper() for role in ROLES.values() for field in role.model_fields}
    return settings | {variable for text in texts for variable in VARIABLE.findall(text)}


@cache
def _metrics() -> set[str]:
    """The first argument of every Counter, Gauge and Histogram."""
    return {metric for path in modules() if path.relative_to(ROOT).parts[0] in ROOMS for metric in _measured(path)}


def _measured(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(
                func=ast.Name(id="Counter" | "Gauge" | "Histogram"), args=[ast.Constant(value=str(metric)), *_]
            ):
                yield metric
            case _:
                pass


@cache
def _settings() -> list[tuple[list[str], set[str], str]]:
    """Of each row of the table: variables, the roles that read them, and the meaning."""
    found: list[tuple[list[str], set[str], str]] = []
    for variables, roles, meaning in rows(OPERATIONS.read_text(), "| variable | roles | meaning (default) |"):
        if roles in ("", "the same"):
            readers = found[-1][1]
        elif roles == "all but migrate":
            readers = set(ROLES) - {"migrate"}
        else:
            readers = {role for role in roles.split(", ") if role in ROLES}
        found.append((quoted(variables), readers, meaning))
    return found


@cache
def _fields() -> dict[str, dict[str, str]]:
    """Of each role: its variables, with their default if that is a number."""
    return {
        role: {
            field.upper(): f"{about.default:g}" if isinstance(about.default, int | float) else ""
            for field, about in settings.model_fields.items()
        }
        for role, settings in ROLES.items()
    }
