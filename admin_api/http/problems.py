"""Every error of the API as RFC 9457 problem details (`application/problem+json`).

Validation never repeats what a caller sent: a key may be in it.
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from admin_api.database import DatabaseUnavailable
from runtime.vault import VaultDenied, VaultUnavailable

MEDIA_TYPE = "application/problem+json"

_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
"""What may be repeated of an error's location: our own field names look like this, vendor keys do not."""
_ECHOING = {
    "union_tag_invalid": "unknown variant",
    "json_invalid": "not valid JSON",
    "url_parsing": "not a URL",
    "uuid_parsing": "not a UUID",
    "uuid_type": "not a UUID",
}
"""Error types whose message would repeat what was sent, or a part of it, and what is said instead."""


class FieldProblem(BaseModel):
    field: str
    message: str


class ProblemDetails(BaseModel):
    """RFC 9457. `type` is always about:blank: status and detail say what happened."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    request_id: str | None = None
    errors: list[FieldProblem] | None = Field(
        default=None, description="On 422, and on 403 for single fields: what is wrong with which field."
    )


class Problem(Exception):
    """An answer other than success, to be raised anywhere below the application."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers


def unauthorized(detail: str) -> Problem:
    """A 401 problem, with the challenge that RFC 9110, 11.6.1 asks for."""
    return Problem(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": 'Bearer realm="fleet"'})


def forbidden(detail: str, *, fields: Sequence[str] = ()) -> Problem:
    """A 403 problem; `fields` of the body are what the caller may not set."""
    return Problem(HTTPStatus.FORBIDDEN, detail, errors=[FieldProblem(field=name, message=detail) for name in fields])


def not_found(detail: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, detail)


def conflict(detail: str) -> Problem:
    return Problem(HTTPStatus.CONFLICT, detail)


def invalid(field: str, message: str) -> Problem:
    """A 422 problem: what is wrong with one field, whose value `message` must not repeat."""
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"{field}: {message}", errors=[FieldProblem(field=field, message=message)]
    )


def unavailable(detail: str) -> Problem:
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"})


def answer(problem: Problem, *, request_id: str | None) -> JSONResponse:
    """The response that tells of a problem."""
    body = ProblemDetails(
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail or None,
        request_id=request_id,
        errors=list(problem.errors) or None,
    )
    return JSONResponse(
        body.model_dump(exclude_none=True), problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Makes every error that reaches the application a problem."""

    async def on_problem(request: Request, exc: Exception) -> JSONResponse:
        problem = convert(exc)
        request.state.problem_detail = problem.detail
        return answer(problem, request_id=getattr(request.state, "request_id", None))

    for kind in (
        Problem,
        HTTPException,
        RequestValidationError,
        DatabaseUnavailable,
        VaultUnavailable,
        VaultDenied,
    ):
        app.add_exception_handler(kind, on_problem)


def convert(exc: Exception) -> Problem:
    """What an error of a request is answered with."""
    match exc:
        case Problem():
            return exc
        case RequestValidationError():
            errors = [field_problem(error) for error in exc.errors()]
            return Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "; ".join(f"{error.field}: {error.message}" for error in errors[:10]),
                errors=errors[:100],
            )
        case HTTPException(status_code=HTTPStatus.UNPROCESSABLE_ENTITY):
            return invalid("body", str(exc.detail))
        case HTTPException():
            detail = exc.detail if exc.detail != HTTPStatus(exc.status_code).phrase else ""
            return Problem(exc.status_code, detail, headers=exc.headers)
        case DatabaseUnavailable():
            return unavailable(str(exc))
        case VaultUnavailable():
            return unavailable(f"Vault cannot be used: {exc}; nothing was changed")
        case VaultDenied():
            return unavailable(f"{exc}; nothing was changed; check the admin API's policy")
        case _:
            return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "")


def field_problem(error: Mapping[str, Any]) -> FieldProblem:
    """One of pydantic's errors, without anything that the caller sent: names that are not ours are shown as `…`."""
    names = [
        str(part) if isinstance(part, int) or _FIELD_NAME.fullmatch(str(part)) else "…"
        for part in error["loc"]
        if part not in ("body", "query", "path", "header")
    ]
    message = _ECHOING.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    return FieldProblem(field=".".join(names) or str(error["loc"][0]), message=message)


_SCHEMAS = "#/components/schemas/"
_OF_EVERY_CALLER = (401, 403, 429, 500, 503)
"""What every endpoint below /api/ may answer: it has callers with a rate, and servers behind it."""

Responses = dict[int | str, dict[str, Any]]


def problem_responses(*statuses: int) -> Responses:
    """The `responses` of a route for the OpenAPI document: problems with these statuses."""
    # Not FastAPI's `model`, which it documents as application/json, and a problem is none (RFC 9457, 3).
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}{ProblemDetails.__name__}"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in sorted(statuses)}


def api_problems(*statuses: int) -> Responses:
    """As `problem_responses`, with the statuses that every endpoint below /api/ may answer."""
    return problem_responses(*_OF_EVERY_CALLER, *statuses)


def add_schemas(openapi: dict[str, Any]) -> dict[str, Any]:
    """Adds to an OpenAPI document the schemas that `problem_responses` refers to."""
    schema = ProblemDetails.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}")
    openapi["components"]["schemas"] |= {**schema.pop("$defs"), ProblemDetails.__name__: schema}
    return openapi
