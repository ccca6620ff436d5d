"""Pods that send the requests of a load test, beside the servers of a bundle."""
