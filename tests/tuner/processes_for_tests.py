"""What processes do in the tests; they must be able to import it."""

import os
import signal


def add(number):
    print("added one")
    return number + 1


def raise_value_error(number):
    raise ValueError(f"of {number}")


def out_of_memory(number):
    raise MemoryError


def exit_with(number):
    os._exit(number)


def kill_myself(number):
    os.kill(os.getpid(), signal.SIGKILL)
