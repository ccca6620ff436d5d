"""A FAKE of the part of TensorRT-LLM that the INT4 plugin touches: no GPU, no server.

It builds a whole Nemotron-H on the CPU, so that a checkpoint can be loaded through the plugin and
its logits compared. What the plugin relies on follows the sources named at each definition; Mamba,
attention and norms, which stay upstream's, are transformers' own layers here.
"""

__version__ = "1.2.1"
