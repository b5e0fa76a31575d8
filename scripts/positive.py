"""A whole number above 0 among a command's arguments."""

import argparse


def positive(text: str) -> int:
    """Returns the number in an argument, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number above 0")
    return int(text)
