"""`python -m retrieval.cli`: the same as the console script, for callers that have the interpreter but not the path."""

from retrieval.cli import main

if __name__ == "__main__":  # a worker process imports this file again
    main()
