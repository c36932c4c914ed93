"""The decoder, its weights and the float reference."""
