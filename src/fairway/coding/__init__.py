"""Predictions as integer frequencies, and what is coded with them."""
