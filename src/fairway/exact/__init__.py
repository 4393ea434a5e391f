"""Artifact → integer frequencies, the same bits on every machine. docs/exact.md is its contract."""
