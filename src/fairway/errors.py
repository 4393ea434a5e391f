"""The ways in which a command ends without success (docs/commands.md, exit codes)."""


class BadInput(Exception):
    """Bad input or usage: one sentence that says what, where and what to do. Exit code 2."""


class Damaged(BadInput):
    """A file whose bytes are not what Fairway wrote. `verify` ends in the verdict "no", code 1."""


class Interrupted(Exception):
    """Ctrl-C after the work was saved; the same command resumes. Exit code 130."""
