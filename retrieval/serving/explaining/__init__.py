"""Why an entity is missing: what each shard says of it, and the verdict."""
