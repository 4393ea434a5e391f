"""Submissions to the challenge and their checks."""
