"""`python -m retrieval.cli`: the same as the console script, for callers that have the interpreter but not the path."""

from retrieval.cli import main

main()
