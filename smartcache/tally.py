"""The engine's counters, resolved once, so that counting costs no look-up by name."""

from __future__ import annotations

from typing import Final

from smartcache.catalogue import STRATEGIES, ZONES
from smartcache.layout import OUTCOMES
from smartcache.metrics import CacheMetrics
from smartcache.request import Request
from smartcache.volatility import STATUS_NAMES

__all__ = ["Tally"]

_NO_ZONE: Final = ZONES.index("none")
_STRATEGY_OF: Final = tuple(STRATEGIES.index(outcome.strategy) for outcome in OUTCOMES)
_JUDGED_JOINTLY: Final = tuple(outcome.judged_jointly for outcome in OUTCOMES)


class Tally:
    """Handles of everything the engine counts, named as in the catalogue."""

    def __init__(self, metrics: CacheMetrics) -> None:
        self._request = metrics.recorder.request
        #: Counts a request served a fresh value, whose cell is known.
        self.fresh_hit: Final = metrics.recorder.fresh_hit
        layout = metrics.layout
        counter, gauge, histogram = metrics.counter, metrics.gauge, metrics.histogram
        self._blocks = layout.blocks
        self._markets = {market: layout.place("market", market) for market in (*layout.domains["market"], None)}
        self._other_market = layout.place("market", "other")
        self._competitions = {
            competition: layout.place("competition", competition)
            for competition in (*layout.domains["competition"], None)
        }
        self._other_competition = layout.place("competition", "other")
        self._judgements = layout.judgements
        self._statuses = [layout.judgement(status, layout.domains["competition"][0]) for status in STATUS_NAMES]
        self.governor: Final = metrics.state("smartcache_governor_mode")
        self._memory_entries = gauge("smartcache_memory_entries")
        self._memory_bytes = gauge("smartcache_memory_bytes")
        self.evictions = counter("smartcache_memory_evictions_total")
        self.ages = {zone: histogram("smartcache_served_age_seconds", zone=zone) for zone in ZONES}
        self.beyond_promise = {
            (zone, reason): counter("smartcache_served_beyond_promise_total", zone=zone, reason=reason)
            for zone in ZONES
            for reason in ("fresh", "stale", "error", "kickoff")
        }
        self.computes = {
            outcome: counter("smartcache_computes_total", outcome=outcome)
            for outcome in ("success", "error", "timeout", "cancelled")
        }
        self.compute_duration = histogram("smartcache_compute_duration_seconds")
        self.computes_in_progress = gauge("smartcache_computes_in_progress")
        self.coalesced = counter("smartcache_coalesced_requests_total")
        self.writes_fenced = counter("smartcache_writes_fenced_total")
        self.unreadable = counter("smartcache_store_unreadable_entries_total")
        self.early_refreshes = counter("smartcache_early_refreshes_total")
        self.refreshes_skipped = counter("smartcache_swr_refreshes_skipped_total")
        self.refreshes_in_progress = gauge("smartcache_swr_refreshes_in_progress")
        self.refresh_successes = counter("smartcache_swr_refreshes_total", outcome="success")
        self.refresh_errors = counter("smartcache_swr_refreshes_total", outcome="error")
        self.surgical_invalidations = counter("smartcache_invalidations_total", kind="surgical")
        self.full_invalidations = counter("smartcache_invalidations_total", kind="full")
        self.markets_affected = counter("smartcache_invalidation_markets_total", outcome="affected")
        self.markets_preserved = counter("smartcache_invalidation_markets_total", outcome="preserved")
        self.keys_deleted = counter("smartcache_invalidation_keys_deleted_total")
        self.local_ticks = counter("smartcache_odds_ticks_total", origin="local")
        self.bus_ticks = counter("smartcache_odds_ticks_total", origin="bus")

    def request(self, request: Request, start: float, end: float) -> None:
        """Count a request that ended."""
        cells = self._cells(request, request.status)
        self._request(cells, _STRATEGY_OF[request.outcome], end - start, end)

    def cell(self, request: Request, status: int | None) -> int:
        """The cell in which a fresh hit in memory counts, were its volatility status ``status``."""
        return self._cells(request, status)[0]

    def _cells(self, request: Request, status: int | None) -> tuple[int, ...]:
        # Layout.cells_of, without its look-ups by name.
        first, zone_step, market_step = self._blocks[request.outcome]
        joint = first + market_step * self._markets.get(request.market, self._other_market)
        joint += zone_step * (_NO_ZONE if request.zone is None else request.zone.index)
        if status is None:
            return (joint,)
        competition = self._competitions.get(request.competition, self._other_competition)
        judgement = self._statuses[status] + competition
        if _JUDGED_JOINTLY[request.outcome]:
            return (joint + 1 + judgement,)
        return joint, self._judgements + judgement

    def served(self, zone: str, age: float, promise: float, reason: str) -> None:
        """Count the age of a value served from the cache, and whether it was above what was promised."""
        self.ages[zone].observe(age)
        if age > promise:
            self.beyond_promise[zone, reason].add()

    def memory(self, entries: int, held: int) -> None:
        """Show how much the memory tier holds, in entries and bytes."""
        self._memory_entries.set(entries)
        self._memory_bytes.set(held)
