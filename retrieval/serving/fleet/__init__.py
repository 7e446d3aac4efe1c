"""Several hosts: leaves that hold shards, brokers that ask them, and what they say to each other."""
