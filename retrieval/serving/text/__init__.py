"""From a query text to its vector: rules, cache, one flight per text, batch, tower."""
