"""Every benchmark in turn, each in a process of its own: `make bench`."""

import argparse
import subprocess
import sys

BENCHMARKS = ("worker", "adapters", "ledger", "reports", "resilience", "walls")


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, epilog=f"Each of them alone: python -m benchmarks.{{{','.join(BENCHMARKS)}}}"
    ).parse_args()
    codes = [
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode for name in BENCHMARKS
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
