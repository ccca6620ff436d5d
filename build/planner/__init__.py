"""Support rules, memory, speed and cost: what a plan says."""
