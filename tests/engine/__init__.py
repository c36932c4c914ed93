"""The engine room: the real parts over tiny models; nothing is fetched."""
