"""What `--checkpoint` means, and how its weights are downloaded."""
