"""Training: torch lives here alone. One thin loop, one file a stage, pure losses."""
