"""Servers and their protocols: how to send one request, and what its responses mean."""
