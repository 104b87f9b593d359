"""Figures of the disk tier, of all open models together.

Reads what the persistence has counted when it is asked; counts nothing itself.
"""

from collections.abc import Iterator

import attrs
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semantic_trio.adapters.metrics.models import ModelsCollector

# Where the rate of reading prompts is told: tokens before them.
SHOWN_CONTEXT = 4096


@attrs.define(eq=False)
class DiskCollector(Collector):
    """Reads the persistence of all open models when scraped.

    Their counters are among those of the models.
    """

    models: ModelsCollector

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        persistences = [model.persistence for model in self.models.watched]
        disks = [persistence.memory.disk for persistence in persistences]
        accepts = all(disk.exists and disk.is_open for disk in disks)
        yield GaugeMetricFamily(
            "semantic_disk_used_bytes",
            "Disk space taken by what the loaded models remember.",
            sum(disk.used for disk in disks),
        )
        yield GaugeMetricFamily(
            "semantic_disk_accepts_writes",
            "1, or 0 while nothing is written to disk.",
            float(accepts),
        )
        yield GaugeMetricFamily(
            "semantic_disk_waiting",
            "Blocks, snapshots and records that are to be written.",
            sum(disk.waiting for disk in disks),
        )
        tokens = sum(persistence.traffic.read_tokens for persistence in persistences)
        seconds = sum(persistence.traffic.read_seconds for persistence in persistences)
        rate = tokens / seconds if seconds else 0.0
        yield GaugeMetricFamily(
            "semantic_disk_read_tokens_per_second",
            "Tokens brought back per second of reading.",
            rate,
        )
        yield GaugeMetricFamily(
            "semantic_prefill_tokens_per_second",
            "Prompt tokens computed per second, behind 4,096.",
            self._prefill_rate(),
        )

    def _prefill_rate(self) -> float:
        """Return the rate of the slowest model; 0 while none has read a prompt."""
        paces = [model.engine.scheduler.prefill_pace for model in self.models.watched]
        seconds = max(
            (pace.seconds_per_token(SHOWN_CONTEXT) for pace in paces if pace.is_known), default=0.0
        )
        return 1 / seconds if seconds else 0.0
