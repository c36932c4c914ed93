"""Statistics, evaluation text and the parity report."""
