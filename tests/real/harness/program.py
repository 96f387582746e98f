"""The program under test, by its command line."""

import os
import subprocess

BINARY = os.environ["SHADOWPAIR_BIN"]


def shadowpair(*arguments, **options):
    """Runs a subcommand to its end."""
    argv = [BINARY, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, **options)
