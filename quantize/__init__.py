"""Quantization: encode tensors, choose formats by role, stream shards.

`stream.quantize` does the work; `calibrate.calibrate` supplies the activation ranges FP8 needs.
Both import torch, so this package imports neither by itself.
"""
