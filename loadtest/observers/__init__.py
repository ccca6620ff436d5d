"""Metrics of the server and its GPUs, sampled while a level is held."""
