"""Files: atomic writes, untrusted reads, limits."""
