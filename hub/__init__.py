"""Model repositories on the Hugging Face hub: their contents, and checked downloads."""
