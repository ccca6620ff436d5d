"""`python -m nemotron_deploy` is `nemo-deploy`."""

from .cli import main

if __name__ == "__main__":  # processes that compile kernels import this module, too
    main()
