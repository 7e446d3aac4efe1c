"""The `retrieval` command: one file per group of verbs, errors as one sentence with an exit code.

Exit codes: 0 done; 1 it could not be done (state, damage, a gate); 2 the input was wrong.
"""

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process."""
    # here, because processes that a build spawns read the command's script and run no verb
    from retrieval.cli.app import main as run

    run()
