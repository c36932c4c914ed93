"""Parity: the reference with transformers, the native program with the reference."""
