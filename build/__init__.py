"""Everything between a checkpoint and an engine: planner, engines, kernels and plugin."""
