"""The one exception that means: the input is at fault, not the program."""


class InputError(ValueError):
    """Bad input or usage: one line that says what was expected, what came, what to do.

    The command line prints it and exits with code 2.
    """
