"""The `retrieval` command: one file per group of verbs, errors as one sentence with an exit code.

Exit codes: 0 done; 1 it could not be done (state, damage, a gate); 2 the input was wrong.
"""

from retrieval.cli.app import main

__all__ = ["main"]
