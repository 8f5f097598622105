"""The error that the command line prints without a traceback."""


class BenchmarkError(Exception):
    """Something the user can mend: the message names the item, what was expected and what to do."""
