"""What goes wrong with the kernel programs."""


class ProgramError(Exception):
    """A program or its maps could not be loaded, attached or fed; the message says what, where and what to do."""


class NotInService(Exception):
    """The agent runs no snapshot yet: there is nothing to look at."""
