"""What a model is: architecture, configuration, tensors, recipes, tokenizer, and a catalog."""
