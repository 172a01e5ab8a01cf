"""The one exception that reaches a user as a plain line: what is wrong, where, and what to do."""


class UserError(Exception):
    """Wrong input (file, row, key, setting). The command line prints it without a traceback and exits with code 2."""
