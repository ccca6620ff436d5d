"""All code that runs where nemo-deploy is not installed: the served model, its executors, checks.

`build` copies this folder into every bundle as the package `nemo_deploy_runtime`. It imports
nothing else of the project, and everything within it by relative imports.
"""
