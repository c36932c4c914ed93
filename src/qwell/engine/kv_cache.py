"""Who holds which page of the KV cache. The numbers inside belong to the back end.

A page keeps PAGE_SIZE tokens of one sequence. A sequence owns a list of pages that grows as it
is used. The back end reserves address space for all pages, so the pool hands out low and lately
freed pages first: memory is committed as it is used, unless `Engine.commit` took it all.
"""

from __future__ import annotations

from qwell.model.batch import PAGE_SIZE


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE_SIZE)


class PagePool:
    """A fixed number of pages; every page is free or in exactly one list."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))  # the last one is handed out next
        self._is_free = bytearray(b"\1" * num_pages)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def grow(self, pages: list[int], tokens: int) -> bool:
        """Extends `pages` to hold `tokens`. False, and nothing changed, if too few are free."""
        missing = pages_for(tokens) - len(pages)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            page = self._free.pop()
            self._is_free[page] = 0
            pages.append(page)
        return True

    def release(self, pages: list[int]) -> None:
        """Takes all of `pages` back and empties the list. ValueError for a page that is free."""
        while pages:
            page = pages.pop()
            if self._is_free[page]:
                raise ValueError(f"page {page} is released twice")
            self._is_free[page] = 1
            self._free.append(page)
