"""Checks of Kubernetes manifests: our own, and anybody's.

A rule (`findings.Rule`) is a function from a workload or another object to the problems in its
fields. `table.RULES` has all of them by subject, and each says how severe it is in what nemo-deploy
wrote and elsewhere. `apply.judge` applies them to objects that are applied together, which
`directory.load` finds in a directory.
"""
