"""The delta in a server: fresh entities searched beside the shards, and the calls that write them."""
