"""Every benchmark in turn, each in a process of its own. The one that matters most is first."""

import argparse
import subprocess
import sys
from pathlib import Path

FIRST = "load"
OTHERS = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, epilog=f"Each of them alone: python -m benchmarks.{{{','.join((FIRST, *OTHERS))}}}"
    ).parse_args()
    codes = [
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
        for name in (FIRST, *OTHERS)
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
