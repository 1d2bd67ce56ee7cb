"""What a process of the `ranks` fixture does; run_path gives the names that aren't set here."""

# ruff: noqa: F821
import os
import sys

from pealm_core.cli import main

os.environ.clear()
os.environ.update(env)
for path, stream in ((out, sys.stdout), (err, sys.stderr)):
    with path.open("wb") as file:
        os.dup2(file.fileno(), stream.fileno())
main(words)
