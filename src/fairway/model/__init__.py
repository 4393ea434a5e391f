"""The network: tokens to logits."""
