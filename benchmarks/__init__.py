"""Bowsprit and its peers on the same texts in one run: `make benchmark`."""
