"""Every name that the served model shares with its clients, its containers and its documentation.

Tensors, ports, environment variables, cache paths and metrics are named here and nowhere else.
Standard library only: the command line imports this module before anything heavy.
"""

from .metrics import *
from .names import *
from .ports import *
from .tensors import *
from .variables import *
