"""Small helpers of the command line."""

import argparse
import sys


def parse_label_pair(text: str) -> tuple[int, int]:
    """Parse `0,3`, the two labels kept by --binary."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip() in {"0", "1", "2", "3"} for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not two labels from 0 to 3 such as 0,3")
    low, high = sorted(int(part) for part in parts)
    if low == high:
        raise argparse.ArgumentTypeError(f"{text!r} names one label twice; two different ones are needed")
    return low, high


def warn(message: str) -> None:
    """Say on standard error what is weak about a dataset that is written all the same."""
    print(f"warning: {message}", file=sys.stderr)
