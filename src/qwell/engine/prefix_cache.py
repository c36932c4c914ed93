"""Pages that several requests read: a tree of whole pages, kept after their requests have ended.

A page holds 64 tokens of one sequence. Its keys and values are a function of these tokens, of all
before them and of how many of them were prompt (`Batch` and DESIGN.md, "Roles"), so whoever begins
with the same tokens in the same roles may read the page instead of computing it: same bits. Trees
of different keys never meet: what one tenant sent cannot be felt by another.

A `Lease` is what one sequence holds: a path in the tree, then pages of its own. Pages nobody holds
stay until room is wanted; those used longest ago go first, leaves before what they hang on.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count

from qwell.engine.kv_cache import PagePool, pages_for
from qwell.model.batch import PAGE_SIZE

Name = tuple[tuple[int, ...], int]
"""The tokens of a page, and how many of them were prompt."""


@dataclass(eq=False)
class _Node:
    page: int
    parent: _Node | None
    name: Name
    users: int = 0
    used: int = 0
    children: dict[Name, _Node] = field(default_factory=dict)


@dataclass(eq=False)
class Lease:
    """The pages of one sequence, in order: those of the tree, then its own."""

    key: str
    pages: list[int] = field(default_factory=list)
    path: list[_Node] = field(default_factory=list)


_Entry = tuple[int, int, _Node]
"""When a node was used last, a number of its own, the node."""


def _is_due(entry: _Entry) -> bool:
    """Whether it is not out of date: an idle leaf that was not used since."""
    used, _, node = entry
    return not node.users and not node.children and node.used == used and node.parent is not None


class PrefixCache:
    """The tree over the pages of `pool`.

    roles_differ: the back end computes prompt rows by another formula than reply rows.
    enabled=False keeps nothing: every page is its sequence's own.
    """

    def __init__(self, pool: PagePool, *, roles_differ: bool = True, enabled: bool = True) -> None:
        self.pool, self._roles_differ, self._enabled = pool, roles_differ, enabled
        self._roots: dict[str, _Node] = {}
        self._idle: list[_Entry] = []  # a heap; entries may be out of date
        self._num_idle, self._clock, self._tie = 0, count(1), count()

    @property
    def num_free(self) -> int:
        """Pages that can be had: free ones, and those kept for nobody."""
        return self.pool.num_free + self._num_idle

    @property
    def num_kept(self) -> int:
        """Pages kept for nobody."""
        return self._num_idle

    def begin(self, key: str, tokens: Sequence[int], num_prompt: int) -> Lease:
        """A lease with the pages that are here already."""
        lease = Lease(key)
        self.extend(lease, tokens, num_prompt, 0)
        return lease

    def extend(self, lease: Lease, tokens: Sequence[int], num_prompt: int, done: int) -> int:
        """Lends the next pages of the tree to a sequence whose first `done` tokens are computed.

        Gives how many are now. All but the last token at most: its logits are wanted.
        """
        if done != len(lease.path) * PAGE_SIZE:  # it is within a page of its own
            return done
        node = lease.path[-1] if lease.path else self._roots.get(lease.key)
        while node and (len(lease.path) + 1) * PAGE_SIZE < len(tokens):
            at = len(lease.path)
            node = node.children.get(self._name(tokens, num_prompt, at))
            if node:
                self.pool.release(lease.pages[at : at + 1])
                lease.pages[at : at + 1] = [node.page]
                self._hold(node)
                lease.path.append(node)
        return len(lease.path) * PAGE_SIZE

    def next_page(self, lease: Lease, tokens: Sequence[int], num_prompt: int) -> Hashable:
        """A name of the page that the sequence computes now, the same for all who compute the
        same; None where nothing is kept or no whole page is left."""
        at = len(lease.path)
        if not self._enabled or (at + 1) * PAGE_SIZE >= len(tokens):
            return None
        parent = id(lease.path[-1]) if lease.path else lease.key
        return parent, self._name(tokens, num_prompt, at)

    def grow(self, lease: Lease, tokens: int) -> bool:
        """Pages for so many tokens. False, and nothing changed, if too few can be had."""
        missing = pages_for(tokens) - len(lease.pages)
        if missing > self.num_free:
            return False
        while self.pool.num_free < missing:
            self._evict()
        return self.pool.grow(lease.pages, tokens)

    def computed(self, lease: Lease, tokens: Sequence[int], num_prompt: int, done: int) -> None:
        """The first `done` tokens of the lease are computed: whole pages of them join the tree.

        Where another sequence was first, its page takes the place of ours: both hold the same.
        """
        while self._enabled and (len(lease.path) + 1) * PAGE_SIZE <= done:
            at = len(lease.path)
            parent = lease.path[-1] if lease.path else self._root(lease.key)
            name = self._name(tokens, num_prompt, at)
            node = parent.children.get(name)
            if node is None:
                node = _Node(lease.pages[at], parent, name)
                parent.children[name] = node
                self._num_idle += 1  # until it is held, a line below
            else:
                self.pool.release([lease.pages[at]])
                lease.pages[at] = node.page
            self._hold(node)
            lease.path.append(node)

    def end(self, lease: Lease) -> None:
        """The sequence is over. Its own pages are free, those of the tree stay."""
        own = lease.pages[len(lease.path) :]
        for node in reversed(lease.path):
            node.users -= 1
            if node.users == 0:
                self._num_idle += 1
                self._rest(node)
        lease.pages.clear()
        lease.path.clear()
        self.pool.release(own)

    def clear(self) -> None:
        """Gives back what is kept for nobody."""
        while self._num_idle:
            self._evict()

    def _root(self, key: str) -> _Node:
        return self._roots.setdefault(key, _Node(-1, None, ((), 0)))

    def _name(self, tokens: Sequence[int], num_prompt: int, page: int) -> Name:
        first = page * PAGE_SIZE
        part = tuple(tokens[first : first + PAGE_SIZE])
        prompt = min(max(num_prompt - first, 0), PAGE_SIZE) if self._roles_differ else PAGE_SIZE
        return part, prompt

    def _hold(self, node: _Node) -> None:
        if node.users == 0:
            self._num_idle -= 1
        node.users += 1
        node.used = next(self._clock)

    def _rest(self, node: _Node) -> None:
        if node.children:
            return
        heapq.heappush(self._idle, (node.used, next(self._tie), node))
        if len(self._idle) > 2 * self.pool.num_pages:  # nothing may have been evicted for long
            newest = {id(entry[2]): entry for entry in self._idle if _is_due(entry)}
            self._idle = list(newest.values())
            heapq.heapify(self._idle)

    def _evict(self) -> None:
        """Frees the idle leaf used longest ago. Whoever holds a node holds its parents, so an idle
        node has idle children only, and there is a leaf among them."""
        while True:
            entry = heapq.heappop(self._idle)
            node, parent = entry[2], entry[2].parent
            if parent and _is_due(entry):
                break
        node.parent = None  # its other entries in the heap are out of date
        del parent.children[node.name]
        self.pool.release([node.page])
        self._num_idle -= 1
        if parent.parent is None:
            self._forget(parent)
        elif not parent.users:
            self._rest(parent)

    def _forget(self, root: _Node) -> None:
        """A tenant without pages leaves nothing behind."""
        for key in [key for key, node in self._roots.items() if node is root and not node.children]:
            del self._roots[key]
