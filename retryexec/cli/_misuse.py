"""The one exception of the command."""

import argparse


class Misuse(argparse.ArgumentTypeError):
    """What was asked for cannot work: exit status 2, and no traceback.

    Its text is one line that names the value and what was expected instead. From a function
    that reads an option's value, argparse catches it and puts the option's name before it.
    """
