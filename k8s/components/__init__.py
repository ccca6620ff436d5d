"""Kustomize components: parts of the tree that one's own overlay may add."""
