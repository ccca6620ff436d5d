"""Model repositories of the Hugging Face hub: what is in one, and getting its files, checked."""
