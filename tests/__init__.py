"""Tests mirror src/qwell, a folder a package; parity/ and golden/ hold proofs across packages."""
