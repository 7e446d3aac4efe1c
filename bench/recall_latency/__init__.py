"""Recall against latency of index libraries and vector databases, ours among them, over the same data in one run."""
