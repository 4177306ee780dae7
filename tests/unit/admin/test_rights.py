"""Every endpoint decides about rights where admin_api.access.principals says: routes never, services always."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ADMIN_API = Path(__file__).parents[3] / "admin_api"
RIGHTS = {"sees", "changes", "must_see", "must_change", "scope"}
KINDS = {"CurrentPrincipal", "CurrentWriter", "CurrentAdmin"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(*rooms: str) -> Iterator[tuple[str, Function]]:
    for room in rooms:
        for path in sorted((ADMIN_API / room).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, Function):
                    yield f"{room}/{path.name}: {node.name}", node


def parameters(function: Function) -> dict[str, str]:
    """Name and annotation of each."""
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return {each.arg: ast.unparse(each.annotation) if each.annotation else "" for each in given}


def is_route(function: Function) -> bool:
    return any(ast.unparse(decorator).startswith("router.") for decorator in function.decorator_list)


def asked(function: Function) -> set[str]:
    """The rights that a function asks for."""
    return {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)} & RIGHTS


def uses(function: Function, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(function))


ROUTES = [(where, function) for where, function in functions("routes") if is_route(function)]
SERVICES = [
    (where, function)
    for where, function in functions("configuration", "operations", "audit")
    if "caller" in parameters(function)
]


@pytest.mark.parametrize(("where", "function"), ROUTES, ids=[where for where, _ in ROUTES])
def test_a_route_says_whom_it_is_for_and_asks_nothing_else(where: str, function: Function) -> None:
    kinds = KINDS & set(parameters(function).values())

    assert len(kinds) == (0 if where.startswith("routes/probes.py") else 1)
    assert asked(function) == set()
    assert uses(function, "caller") or kinds <= {"CurrentAdmin"}


@pytest.mark.parametrize(("where", "function"), SERVICES, ids=[where for where, _ in SERVICES])
def test_a_service_function_that_gets_the_caller_asks_or_hands_it_on(where: str, function: Function) -> None:
    assert asked(function) or any(
        isinstance(node, ast.Call) and any(isinstance(value, ast.Name) and value.id == "caller" for value in values)
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        for values in [[*node.args, *(keyword.value for keyword in node.keywords)]]
    )


def test_there_is_something_to_check() -> None:
    assert len(ROUTES) > 30
    assert len(SERVICES) > 20
