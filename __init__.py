"""From a Nemotron 3 checkpoint to a quantized, verified, load-tested deployment."""

__version__ = "0.1.0"
