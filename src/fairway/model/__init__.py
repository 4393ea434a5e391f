"""Tokens → logits."""
