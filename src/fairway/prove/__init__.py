"""Bits per byte → a file that decodes."""
