"""Train a language model under a byte budget, and prove its score with a file that decodes."""

__version__ = "0.1.0"
