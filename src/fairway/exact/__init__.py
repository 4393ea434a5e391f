"""Compute integer frequencies, the same bits on every machine. docs/exact.md is the contract."""
