"""The examples in our documents, taken out of them to be tried."""

import argparse
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

ROOT = Path(__file__).parents[1]

_CURL = argparse.ArgumentParser(prog="curl", exit_on_error=False)
_CURL.add_argument("-X", dest="method")
_CURL.add_argument("-d", dest="body")
_CURL.add_argument("-H", dest="headers", action="append", default=[])
_CURL.add_argument("url")


@dataclass(frozen=True, slots=True)
class Call:
    """What a line that begins with `curl` asks for."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: str | None


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its rank or above."""
    rank = len(heading) - len(heading.lstrip("#"))
    _, found, rest = (ROOT / page).read_text().partition(f"\n{heading}\n")
    assert found, f"{page} has no {heading!r}"
    return re.split(rf"(?m)^#{{1,{rank}}} ", rest)[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


def fields(text: str) -> set[str]:
    """What the first column of its tables names."""
    return {name for row in re.findall(r"(?m)^\| (`.*?) \|", text) for name in re.findall(r"`(\w+)`", row)}


def lines(block: str) -> list[str]:
    """Of a shell's block; those that go on are one."""
    return block.replace("\\\n", " ").splitlines()


def call(line: str, variables: Mapping[str, str]) -> Call:
    """Variables are put in where a shell would do it: anywhere but in single quotes."""
    quoted = re.split(r"('[^']*')", line)
    filled = [part if part.startswith("'") else Template(part).substitute(variables) for part in quoted]
    curl, *arguments = shlex.split("".join(filled))
    assert curl == "curl"
    given = _CURL.parse_args(arguments)
    headers = dict(header.split(": ", 1) for header in given.headers)
    return Call(given.method or ("GET" if given.body is None else "POST"), given.url, headers, given.body)
