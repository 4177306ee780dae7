#!/bin/sh
# Writes the locks anew from pyproject.toml: lock.sh [options of uv, as --upgrade, or --upgrade-package openai]
# Each holds the whole tree for CPython 3.11 to 3.14 at once, on Linux and macOS, as its markers say: exact versions and
# hashes, no addresses. What is pinned already stays as long as it fits.
set -eu
cd "$(dirname "$0")/.."
uv=$(mktemp -d)
trap 'rm -rf "$uv"' EXIT
python3 -m venv "$uv"
"$uv/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9
lock() {
  out=requirements/$1; shift
  "$uv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --no-emit-package fleet --output-file "$out" "$@"
}
pinned='--constraint requirements/dev.txt'
lock dev.txt pyproject.toml --extra dev "$@"
lock local.txt pyproject.toml --extra local $pinned
lock runtime.txt pyproject.toml --extra worker --extra usage --extra admin --extra cli $pinned
printf 'pip\nsetuptools\n' | lock tools.txt - $pinned "$@"
