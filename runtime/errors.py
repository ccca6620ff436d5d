"""What goes wrong with a request, and with a start."""


class RequestError(ValueError):
    """A request is invalid. The client gets the message; the model continues."""


class StartError(RuntimeError):
    """The model cannot start. Says what is wrong with bundle or machine, and what to do."""
