"""Distributions → bits per byte."""
