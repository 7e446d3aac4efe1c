"""Generations in a running server: opened, probed, followed, swapped, watched and taken back."""
