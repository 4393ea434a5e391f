"""Weights to integer codes that fill a byte budget."""
