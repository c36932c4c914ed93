"""Tests mirror src/qwell, one folder a room; parity/ and golden/ hold the proofs across rooms."""
