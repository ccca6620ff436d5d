"""`python -m nemotron_deploy` is `nemo-deploy`."""

from .cli import main

main()
