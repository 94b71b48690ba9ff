"""How the processes of torchrun find each other, also after a restart.

torchrun keeps one store over restarts (torch 2.13). It still holds the addresses of processes that have ended, and a
new process may read them before the new ones are there. So the processes agree on a name for their attempt first, and
meet under it. The number of restarts is no such name: the agents of several machines count it differently.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

_PLACE = "hyenadna/"
_SECONDS = 0.02


def meet(timeout: timedelta) -> tuple[Store, Store]:
    """The store that torchrun keeps over restarts, and the one by which this attempt's processes find each other.

    Args:
        timeout: how long to wait for the other processes.

    Raises:
        RuntimeError: the store cannot be reached, or the other processes have not come in time.
    """
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store, store
    return store, PrefixStore(attempt_of(store, rank, size, timeout), store)


def attempt_of(store: Store, rank: int, size: int, timeout: timedelta) -> str:
    """A name that the processes of this attempt share, and no earlier attempt has had.

    Every process puts a new word into the store, in the place of an earlier one. The first process publishes all words
    under a name, again whenever one has changed. A process answers with the name if its own word is there. When all
    have answered with one name, it is the attempt's.

    Args:
        store: the store that all attempts share.
        rank: rank of this process.
        size: number of processes.
        timeout: how long to wait for the others.

    Raises:
        RuntimeError: the others have not come in time.
    """
    place = PrefixStore(_PLACE, store)
    word, until = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    place.set(f"word-{rank}", word)
    name, published = "", ""
    while time.monotonic() < until:
        if rank == 0:
            words = [_read(place, f"word-{other}") for other in range(size)]
            if all(words) and words != json.loads(published or "[0]")[1:]:
                name = uuid.uuid4().hex
                published = json.dumps([name, *words])
                place.set("words", published)
        else:
            published = _read(place, "words")
        found, *words = json.loads(published) if published else [""]
        if found and words[rank] == word:
            name = found
            place.set(f"answer-{rank}", name)
        if rank == 0 and name and all(_read(place, f"answer-{other}") == name for other in range(size)):
            place.set("attempt", name)
        if name and _read(place, "attempt") == name:
            return name
        time.sleep(_SECONDS)
    raise RuntimeError(f"timed out: not all {size} processes have come within {timeout.total_seconds():g} s")


def _read(store: Store, key: str) -> str:
    """The value of a key, or "" if it is not there."""
    return store.get(key).decode() if store.check([key]) else ""
