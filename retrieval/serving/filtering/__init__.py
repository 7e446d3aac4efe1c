"""Conditions on attribute columns: their values, their way over the wire, and the bitmaps they become."""
