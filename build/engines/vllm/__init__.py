"""vLLM: its arguments, rules, memory and engine directory."""
