"""Results → what others read."""
