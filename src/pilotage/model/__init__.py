"""Values: what is described, requested, placed and reported. No I/O, no decisions."""
