"""The two errors that end a command in a few lines instead of a traceback."""


class UsageError(Exception):
    """What was typed or configured is wrong; the command ends with exit status 2."""


class RunError(Exception):
    """A file, the data or the machine is not as needed; the command ends with exit status 1."""
