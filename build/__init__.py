"""Support rules, memory and speed, the plan, LLM arguments and the engine directory."""
