"""Deploying a bundle's manifests: kubectl, what a rollout costs, its stages, why one stalls.

Everything but `kubectl` and `reader` consists of pure functions of API objects.
"""
