"""Floor 6: the command line. One file a command group: parse, call, render.

These files import rooms inside the commands, so that `headway --help` is immediate.
"""
