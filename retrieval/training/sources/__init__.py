"""Real data sets as tables of entities and pairs, one file per source. Each knows its own columns only."""
