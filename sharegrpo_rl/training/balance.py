"""Work spread evenly: items of known cost over ranks and micro-batches, every rank with the same number of these."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def balanced(costs: Sequence[int], ranks: int, limit: int) -> list[list[list[int]]]:
    """[rank][micro-batch] -> indices of items, in order; a micro-batch costs `limit` at most, or is one item.

    As few micro-batches as fit. Within one step of all ranks, and over all steps, no two ranks are further apart than the
    dearest item (longest processing time first: Graham 1969). Some of the last ones may be empty.
    """
    order = sorted(range(len(costs)), key=lambda i: -costs[i])
    each = min(-(-sum(costs) // (ranks * limit)), -(-len(costs) // ranks))
    while (bins := _spread(order, costs, each * ranks, limit)) is None:
        each += 1
    bins.sort(key=lambda b: -_cost(b, costs))
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for step in range(each):
        poorest_first = sorted(range(ranks), key=lambda r: loads[r])
        for rank, items in zip(poorest_first, bins[step * ranks : (step + 1) * ranks], strict=True):
            dealt[rank].append(sorted(items))
            loads[rank] += _cost(items, costs)
    return dealt


def _spread(order: Sequence[int], costs: Sequence[int], count: int, limit: int) -> list[list[int]] | None:
    """Each item to the bin that holds least so far; None where one does not fit."""
    bins: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, b) for b in range(count)]
    for item in order:
        load, least = heap[0]
        if load and load + costs[item] > limit:
            return None
        heapq.heapreplace(heap, (load + costs[item], least))
        bins[least].append(item)
    return bins


def _cost(items: Sequence[int], costs: Sequence[int]) -> int:
    return sum(costs[i] for i in items)
