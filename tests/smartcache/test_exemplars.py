"""Exemplars in the metrics memory: one request for each latency bucket, read whole or not at all."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from smartcache import exemplars
from smartcache.catalogue import REQUEST_BUCKETS, STRATEGIES
from smartcache.exemplars import Exemplar
from smartcache.layout import Layout
from smartcache.tags import MARKETS

LAYOUT = Layout({"market": MARKETS})
DESCRIPTION = LAYOUT.describe()["exemplars"]


def trace(number: int) -> str:
    return f"{number:032x}"


def empty() -> memoryview[int]:
    return memoryview(bytearray(8 * LAYOUT.cells)).cast("q")


def read(cells: memoryview[int]) -> exemplars.Exemplars:
    return exemplars.read(cells.tobytes(), DESCRIPTION)


def test_every_bucket_of_every_strategy_has_a_place_of_its_own() -> None:
    cells = empty()
    written: dict[tuple[str, int], Exemplar] = {}
    edges = (0.0, *REQUEST_BUCKETS, 100.0)
    for strategy in STRATEGIES:
        for bucket, (low, high) in enumerate(pairwise(edges)):
            exemplar = Exemplar(trace(len(written) + 1), (low + high) / 2, 1e9 + bucket)
            exemplars.write(cells, LAYOUT.exemplars, strategy, exemplar)
            written[strategy, bucket] = exemplar
    assert read(cells) == written
    assert not any(cells[: LAYOUT.exemplars]), "an exemplar was written over a count"


def test_an_edge_belongs_to_the_bucket_below_it_as_the_histogram_counts_it() -> None:
    cells = empty()
    exemplars.write(cells, LAYOUT.exemplars, "compute", Exemplar(trace(7), REQUEST_BUCKETS[3], 5.0))
    assert list(read(cells)) == [("compute", 3)]


def test_the_last_one_stands_for_its_bucket() -> None:
    cells = empty()
    for number in (1, 2):
        exemplars.write(cells, LAYOUT.exemplars, "compute", Exemplar(trace(number), 0.2, float(number)))
    assert [exemplar.trace_id for exemplar in read(cells).values()] == [trace(2)]


def test_a_memory_in_which_nothing_was_written_has_none() -> None:
    assert read(empty()) == {}
    assert exemplars.read(b"", None) == {}, "a file of a version without exemplars"


@pytest.mark.parametrize("wrong_byte", range(40))
def test_a_slot_with_one_wrong_byte_is_left_out(wrong_byte: int) -> None:
    cells = empty()
    exemplars.write(cells, LAYOUT.exemplars, STRATEGIES[0], Exemplar(trace(3 << 64 | 5), 0.000_001, 1e9))
    assert len(read(cells)) == 1
    cells.cast("B")[8 * LAYOUT.exemplars + wrong_byte] ^= 1
    assert read(cells) == {}


def test_of_several_processes_the_newest_stands() -> None:
    old, new, other = (Exemplar(trace(n), 0.2, float(n)) for n in (1, 2, 3))
    found = exemplars.newest([{("compute", 14): old}, {("compute", 14): new, ("bypass", 14): other}, {}])
    assert found == {("compute", 14): new, ("bypass", 14): other}


def test_a_slot_read_while_it_is_written_is_the_old_one_the_new_one_or_none() -> None:
    old, new = (Exemplar(trace(n << 64 | n), 0.11 + n * 1e-9, float(n)) for n in (1, 2))
    cells = empty()
    slot = slice(8 * LAYOUT.exemplars, 8 * LAYOUT.exemplars + 40)
    image = {}
    for exemplar in (old, new):
        exemplars.write(cells, LAYOUT.exemplars, STRATEGIES[0], exemplar)
        place = next(iter(read(cells)))[1]
        image[exemplar] = cells.tobytes()[slot.start + 40 * place : slot.stop + 40 * place]
    alone = {"cell": 0, "strategies": [STRATEGIES[0]], "slots": 1}
    # Each of its five words may have arrived or not, in whatever order.
    for arrived in product((old, new), repeat=5):
        mixed = b"".join(image[one][8 * word : 8 * word + 8] for word, one in enumerate(arrived))
        assert set(exemplars.read(mixed, alone).values()) == ({arrived[0]} if len(set(arrived)) == 1 else set())
