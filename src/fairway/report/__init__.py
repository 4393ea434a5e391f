"""Pages, pictures, comparisons and sweeps."""
