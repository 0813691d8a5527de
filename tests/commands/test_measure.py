"""The clock of ``lightning bench`` and the benchmarks times a device's work, and not what was made ready before."""

import pytest
import torch

from resnet18.commands.measure import DRAIN_S, PROBES, Clock


class Time:
    """Stands in for the clock on the wall and for a device that computes a step in 0.1 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.device_done, self.waits = 0.0, 0.0, 0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr("torch.accelerator.synchronize", self.wait)

    def wait(self, device: torch.device) -> None:
        self.now = max(self.now, self.device_done)
        self.waits += 1

    def issue(self, seconds: float) -> None:
        self.now += seconds
        self.device_done = max(self.now, self.device_done) + 0.1


def test_the_clock_waits_for_the_device_around_a_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Time(monkeypatch)
    clock = Clock(torch.device("mps"), steps=10)
    clock.begin()
    wall.issue(30.0)  # compiles
    clock.step()
    waits = []
    while not clock.done:
        wall.issue(0.02)
        clock.step()
        waits.append(wall.waits)
    assert clock.first_s == pytest.approx(30.1)
    assert clock.step_ms == pytest.approx(100 * 10 / 10 + 2, abs=0.1)  # the first one's issue is not hidden
    assert clock.host_ms == pytest.approx([20.0] * PROBES)
    assert waits[0] == waits[9]  # from the end of the warm-up to the end of the block
    assert len(waits) == 1 + 10 + PROBES


def test_the_clock_lets_what_workers_had_ready_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def warmup(seconds: float) -> int:
        wall = Time(monkeypatch)
        clock = Clock(torch.device("cpu"), steps=3, ahead=32)
        clock.begin()
        steps = 0
        while not clock.done:
            wall.now += seconds
            clock.step()
            steps += 1
        assert clock.step_ms == pytest.approx(1000 * seconds)
        return steps - 3

    assert warmup(0.001) == 32
    assert warmup(0.5) == 2 + DRAIN_S / 0.5  # but not for longer than that
