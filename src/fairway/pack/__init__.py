"""Weights → artifact: quantizers, entropy coding, the file format."""
