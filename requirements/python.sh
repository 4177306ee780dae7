#!/bin/sh
# Prints the first Python that can run the fleet, or says of each one what it lacks: python.sh [the one to take]
for python in ${*:-python3.11 python3.12 python3.13 python3.14 python3 python}; do
  why=$("$python" -c '
import sys
if not (3, 11) <= sys.version_info < (3, 15):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("cannot make a virtual environment; on Debian and Ubuntu: apt install python%d.%d-venv" % sys.version_info[:2])
' 2>&1) && { echo "$python"; exit; }
  { [ $# -gt 0 ] || command -v "$python" > /dev/null; } && lacks="${lacks-}$python: $(echo "$why" | tail -n 1)
"
done
cat >&2 << END
Python 3.11, 3.12, 3.13 or 3.14 with venv is needed, and was not found.
${lacks-}Install one (Debian and Ubuntu: apt install python3-venv; macOS: brew install python@3.13),
or name the one to take: make PYTHON=/path/to/python3 …
END
exit 1
