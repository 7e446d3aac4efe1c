"""Training and evaluation of towers. Knows nothing about indexes, stores or servers."""
