"""What was measured of a loop, and what it says of the configuration."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from resnet18.measuring.clock import Probe

BOUND = 0.8  # the share of a step from which one thing is said to limit it


@dataclass
class Measured:
    """A loop's numbers, one a round."""

    name: str
    batch_size: int
    step_ms: list[float] = field(default_factory=list)
    """Milliseconds a step."""
    host_ms: list[float] = field(default_factory=list)
    """Milliseconds to issue one; on an accelerator only."""
    first_s: list[float] = field(default_factory=list)
    """Seconds to the end of the first step, which compiles."""
    peak_bytes: list[int] = field(default_factory=list)
    missing: str = ""
    """Why there are none."""

    def add(self, probe: Probe) -> None:
        self.step_ms.append(probe.clock.step_ms)
        self.host_ms += [statistics.median(probe.clock.host_ms)] if probe.clock.host_ms else []
        self.first_s.append(probe.clock.first_s)
        self.peak_bytes += [probe.peak_bytes] if probe.peak_bytes else []

    @property
    def ms(self) -> float:
        return statistics.median(self.step_ms)

    @property
    def host(self) -> float | None:
        return statistics.median(self.host_ms) if self.host_ms else None

    @property
    def images_per_s(self) -> float:
        return 1000 * self.batch_size / self.ms

    def record(self) -> dict[str, Any]:
        """Plain values."""
        if self.missing:
            return {"name": self.name, "missing": self.missing}
        return {
            "name": self.name,
            "images_per_s": self.images_per_s,
            "ms_a_step": self.ms,
            "host_ms_a_step": self.host,
            "peak_memory_bytes": max(self.peak_bytes, default=None),
            "rounds_peak_memory_bytes": self.peak_bytes,
            "first_step_s": self.first_s[0],
            "rounds_ms_a_step": self.step_ms,
        }


def extra_ms(fit: Measured, bare: Measured) -> float:
    """What ``Trainer.fit`` takes longer than the bare loop, a step: the median over the rounds, of each its own."""
    return statistics.median(ours - alone for ours, alone in zip(fit.step_ms, bare.step_ms, strict=True))


def limited_by(feed: Measured, bare: Measured, fit: Measured) -> str:
    """What limits a configuration, in a line."""
    step = f"{fit.ms:,.1f} ms of a step"
    extra = extra_ms(fit, bare)
    if feed.ms >= BOUND * fit.ms:
        return (
            f"feed-bound: the feed alone takes {feed.ms:,.1f} of the {step}; more workers or smaller images would help"
        )
    if fit.host is not None and fit.host >= BOUND * fit.ms:
        remedy = "a larger batch or model.compile would help"
        return f"host-bound: to issue a step takes Python {fit.host:,.1f} of the {step}; {remedy}"
    if fit.host is None and extra >= (1 - BOUND) * fit.ms:
        return f"host-bound: the Trainer itself takes {extra:,.1f} of the {step}; a larger batch would help"
    issued = "" if fit.host is None else f", to issue one {fit.host:,.1f}"
    return f"device-bound: the feed alone takes {feed.ms:,.1f} of the {step}{issued}; the rest is computing"
