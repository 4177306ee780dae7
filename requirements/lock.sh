#!/bin/sh
# Writes the pinned requirements anew from pyproject.toml: exact versions and hashes, no addresses.
set -eu
cd "$(dirname "$0")/.."
lock() {
  out=$1; shift
  python -m piptools compile --quiet --generate-hashes --strip-extras --no-header --no-annotate \
    --unsafe-package fleet \
    "$@" --output-file "requirements/$out" pyproject.toml
  sed -i -e '/^# /d' -e '/^--/d' -e '/^fleet @/d' "requirements/$out"
}
lock dev.txt --extra dev
lock runtime.txt --extra worker --extra usage --extra admin --extra cli --constraint requirements/dev.txt
