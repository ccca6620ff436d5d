"""The model that Triton's Python backend runs, and how it reads requests."""
