"""A scorer of the test's own process."""

from fairway.audit.scorer import array_of, checked, checked_rows, plain


class Local:
    """A caller as audits take it; `maker` returns a scorer that never saw a text.

    Without a maker the scorer has no memory.
    """

    def __init__(self, scorer, maker=None):
        self._scorer, self._maker = scorer, maker
        self.has_distributions = hasattr(scorer, "distributions")

    def score(self, tokens):
        return checked(plain(self._scorer(tokens.copy())), len(tokens))

    def distributions(self, tokens):
        return checked_rows(array_of(self._scorer.distributions(tokens.copy())), len(tokens))

    def restarted(self):
        return self if self._maker is None else Local(self._maker(), self._maker)

    def close(self):
        return
