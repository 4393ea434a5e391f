"""Bytes of every file: artifact, proof, compressed file."""
