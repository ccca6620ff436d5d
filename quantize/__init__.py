"""Quantization: encode tensors, choose formats by role, stream shards, audit the result."""
