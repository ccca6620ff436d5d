"""What generates tokens: TensorRT-LLM in production, transformers on the CPU elsewhere."""
