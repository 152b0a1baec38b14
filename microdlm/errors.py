"""The one exception that a person, not a programmer, is meant to read."""


class UserError(Exception):
    """Something the person at the keyboard can put right.

    The message is one line: what is wrong, then what to do. Scripts print it and leave with exit code 2.
    """
