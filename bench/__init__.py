"""Measurements: recall beside latency, ours beside the libraries a user could pick instead."""
