"""How hard a search tries: what the build measured, what a caller asks, and what is picked."""
