"""Every shipped configuration: it parses, it trains a step, and its header's numbers are those of a stored result."""

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
FIELDS = ("command", "expects", "takes", "hardware", "memory", "protocol", "results")


def header(config: Path) -> dict[str, str]:
    """The fields of the comment that opens a configuration."""
    comment = [line[1:].rstrip() for line in config.read_text().splitlines() if line.startswith("#")]
    fields: dict[str, str] = {}
    for line in comment:
        found = re.match(r" (\w+) {2,}(.+)", line)
        if found and found[1] in FIELDS:
            fields[found[1]] = found[2]
        elif line.startswith("     ") and fields:
            fields[list(fields)[-1]] += f" {line.strip()}"
    return fields


def test_there_are_configurations() -> None:
    assert CONFIGS


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_configuration_trains(config: Path, lightning) -> None:
    done = lightning("fit", "--config", config, "--trainer.fast_dev_run", "1")
    assert done.status == 0, done.err


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_header_says_what_was_measured(config: Path) -> None:
    fields = header(config)
    assert tuple(fields) == FIELDS
    assert fields["command"] == f"lightning fit --config configs/{config.name}"
    if fields["results"] == "not yet measured":
        assert {fields[name] for name in ("expects", "takes", "hardware", "memory")} == {"not yet measured"}
        return
    result = json.loads((ROOT / fields["results"]).read_text())
    mean, spread = result["test_top1_mean"], result["test_top1_sd"]
    expects = f"test/top1 {100 * mean:.2f} % ± {100 * spread:.2f} (mean ± sd over {len(result['runs'])} seeds)"
    assert fields["expects"] == expects
    assert fields["takes"] == f"{result['training_s_median']:.0f} s of training"
    assert fields["memory"] == f"{result['peak_memory_gb']:.1f} GB"
    assert str(result["hardware"]["cores"]) in fields["hardware"]
    assert result["config"] == f"configs/{config.name}"
