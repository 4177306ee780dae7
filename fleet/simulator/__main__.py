"""`python -m fleet.simulator [--port N] [--host H] [--ready-file PATH]` serves until a signal says stop."""

import argparse
import sys
from pathlib import Path

from fleet.simulator.app import main

parser = argparse.ArgumentParser(prog="python -m fleet.simulator", description=__doc__)
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--ready-file", type=Path)
given = parser.parse_args()
sys.exit(main(port=given.port, host=given.host, ready_file=given.ready_file))
