"""A name becomes verified files: against a real HTTP server on this machine, and real wheels."""
