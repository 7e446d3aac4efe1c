"""What a fleet of a size that no single machine has would need: measured costs, a simulation of queues, a plan."""
