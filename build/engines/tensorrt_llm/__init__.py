"""TensorRT-LLM: its arguments and the engine directory, with what INT4 and INT8 add."""
