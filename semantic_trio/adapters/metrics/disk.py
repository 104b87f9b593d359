"""Figures of the disk tier.

Reads what the persistence has counted when it is asked; counts nothing itself.
"""

from collections.abc import Iterator

import attrs
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.pace import PrefillPace

# Where the rate of reading prompts is told: tokens before them.
SHOWN_CONTEXT = 4096


@attrs.define(eq=False)
class DiskCollector(Collector):
    """Reads the persistence when scraped."""

    persistence: Persistence
    prefill: PrefillPace

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        disk, traffic = self.persistence.memory.disk, self.persistence.traffic
        yield GaugeMetricFamily("semantic_disk_used_bytes", "Disk space taken by what this model remembers.", disk.used)
        yield GaugeMetricFamily("semantic_disk_accepts_writes", "1, or 0 while nothing is written to disk.", float(disk.exists and disk.is_open))
        yield GaugeMetricFamily("semantic_disk_waiting", "Blocks, snapshots and records that are to be written.", disk.waiting)
        yield CounterMetricFamily("semantic_disk_written_bytes", "Bytes written.", traffic.written_bytes)
        yield CounterMetricFamily("semantic_disk_read_bytes", "Bytes of blocks and snapshots brought back.", traffic.read_bytes)
        yield CounterMetricFamily("semantic_disk_damaged", "Files found damaged or gone.", traffic.damaged)
        yield CounterMetricFamily("semantic_disk_slower_than_compute", "Times that reading took longer than computing would have.", traffic.slower)
        yield GaugeMetricFamily("semantic_disk_read_tokens_per_second", "Tokens brought back per second of reading.", traffic.read_tokens_per_second)
        yield CounterMetricFamily("semantic_disk_eviction", "Blocks and snapshots deleted for others.", traffic.evicted)
        seconds = self.prefill.seconds_per_token(SHOWN_CONTEXT) if self.prefill.is_known else 0.0
        yield GaugeMetricFamily(
            "semantic_prefill_tokens_per_second", "Prompt tokens computed per second, behind 4,096.", 1 / seconds if seconds else 0
        )
