"""Running programs and waiting for what they do: the few words that every file here uses."""

import subprocess
import time
from collections.abc import Callable


def run(*argv, **options) -> None:
    """Runs a program that must succeed."""
    subprocess.run([str(word) for word in argv], check=True, **options)


def succeeds(*argv) -> bool:
    """Whether a program succeeds; what it says is thrown away."""
    return subprocess.run([str(word) for word in argv], capture_output=True, check=False).returncode == 0


def wait_until(what: str, holds: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until something holds, and gives up loudly."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.1)
