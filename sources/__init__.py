"""What `--checkpoint` means, and how its weights are fetched."""
