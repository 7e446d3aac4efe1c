"""Training studies of the unified model on real data, and the report that is made of them."""
