"""Artifact → distributions, in an order that a decoder can follow."""
