"""One work, several engines: each finds its best settings, then they take turns.

Takes loaded peers and gives report entries. An engine that fails is told to `fail` and dropped,
and so is whoever would be compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peer import Peer, PeerError, Setting, Speed, Work
from report import METRICS, Entry, Tried, best

Fail = Callable[[str, PeerError], None]


def contest(
    peers: Sequence[tuple[Peer, str]], work: Work, rounds: int, *, first_only: bool, fail: Fail
) -> list[Entry]:
    """peers: (engine, name of ours it is compared with). first_only: no settings are tried, the
    first one is taken."""
    tried: dict[str, list[Tried]] = {}
    speeds: dict[str, list[Speed]] = {}

    def attempt(peer: Peer, number: int) -> None:
        if number == 0:
            tried[peer.name] = tune(peer, work, first_only=first_only)
            speeds[peer.name] = []
        elif peer.name in speeds:
            speeds[peer.name].append(take_turn(peer, work, tried[peer.name]))

    for number in range(rounds + 2):  # tuning, a round that warms all up again, the rounds
        for peer, _ in peers:
            try:
                attempt(peer, number)
            except PeerError as error:
                speeds.pop(peer.name, None)
                fail(peer.name, error)
    return [
        _entry(peer, against, tried[peer.name], speeds[peer.name][1:])
        for peer, against in peers
        if {peer.name, against} <= speeds.keys()
    ]


def _entry(peer: Peer, against: str, tried: Sequence[Tried], rounds: Sequence[Speed]) -> Entry:
    chosen = {metric: best(tried, metric) for metric in METRICS}
    return Entry(peer.name, peer.version, against, chosen, tried, rounds)


def tune(peer: Peer, work: Work, *, first_only: bool) -> list[Tried]:
    """Every setting the engine names, tried; PeerError if none works."""
    tried: list[Tried] = []
    for setting in peer.settings(work.batch)[: 1 if first_only else None]:
        try:
            tried.append(Tried(setting, try_setting(peer, setting, work, tried)))
        except PeerError as error:
            tried.append(Tried(setting, None, str(error)))
    if all(t.speed is None for t in tried):
        raise PeerError(tried[0].error)
    return tried


def try_setting(peer: Peer, setting: Setting, work: Work, tried: Sequence[Tried]) -> Speed:
    """The better of two runs after one to warm up. One that warms up at less than half of the
    best speeds so far is not run again: a slow engine takes minutes for nothing."""
    runs = [peer.measure(setting, work)]
    if not is_hopeless(runs[0], [t.speed for t in tried if t.speed]):
        runs = [peer.measure(setting, work) for _ in range(2)]
    return Speed(*(max(getattr(run, metric) for run in runs) for metric in METRICS))


def is_hopeless(run: Speed, others: Sequence[Speed]) -> bool:
    """Whether it is below half of the best of the others in everything."""
    return bool(others) and all(
        2 * getattr(run, metric) < max(getattr(other, metric) for other in others)
        for metric in METRICS
    )


def take_turn(peer: Peer, work: Work, tried: Sequence[Tried]) -> Speed:
    """Prefill and decode, each under the setting that is best at it: the peer's best case."""
    prefill, decode = (best(tried, metric) for metric in METRICS)
    first = peer.measure(prefill, work)
    second = first if decode == prefill else peer.measure(decode, work)
    return Speed(first.prefill_tok_per_s, second.decode_tok_per_s)
