"""The Triton model and its executors. Copied into repositories; imports nothing else of ours."""
