"""Stages, their results, and the run directory."""
