"""Damage real clips and manifests at random, and fail on anything but a row with a reason.

    python -m tests.fuzz --seconds 60 [--seed N] [--clips ../shared/clips] [--keep out/fuzz]

Every case has a number: `--only NUMBER` runs it alone. A finding's file is kept under --keep.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.cases import Fuzzer

CLIPS = Path(__file__).parents[3] / "shared" / "clips"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long to go on (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case (default %(default)s)")
    parser.add_argument("--only", type=int, help="run this case alone")
    parser.add_argument("--clips", type=Path, default=CLIPS, help="folder of real files (default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="where findings go (default %(default)s)")
    options = parser.parse_args()
    if not options.clips.is_dir():
        parser.error(f"--clips: {options.clips} is not a folder")
    fuzzer = Fuzzer(options.clips, options.keep)
    began, number, told = time.monotonic(), options.seed, 0.0
    try:
        if options.only is not None:
            fuzzer.run(options.only)
        while options.only is None and time.monotonic() - began < options.seconds:
            fuzzer.run(number)
            number += 1
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(fuzzer.summary(), flush=True)
    finally:
        fuzzer.close()
    print(f"cases {options.seed} to {number - 1}: {fuzzer.summary()}")
    for finding in fuzzer.findings:
        print(finding)
    return bool(fuzzer.findings)


if __name__ == "__main__":
    sys.exit(main())
