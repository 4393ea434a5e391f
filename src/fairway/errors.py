"""The two ways in which a command ends without success (docs/commands.md, exit codes)."""


class BadInput(Exception):
    """Bad input or usage: one sentence that says what, where and what to do. Exit code 2."""


class Interrupted(Exception):
    """Ctrl-C after the work was saved; the same command goes on from there. Exit code 130."""
