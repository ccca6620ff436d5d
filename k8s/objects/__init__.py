"""The objects of a bundle's tree: one file for each kind, with its reasons."""
