"""The numbers in a configuration's header are those of the stored results that it names."""

import json
from pathlib import Path

import pytest
from conftest import ROOT
from test_configs import CONFIGS, header

MEASURED = [config for config in CONFIGS if header(config).get("results") != "not yet measured"]


@pytest.mark.parametrize("config", MEASURED, ids=lambda config: config.stem)
def test_a_header_says_what_was_measured(config: Path) -> None:
    fields = header(config)
    values = [fields[name].split("; ") for name in ("results", "expects", "takes", "hardware", "memory")]
    for stored, expects, takes, hardware, memory in zip(*values, strict=True):  # one of each for a machine
        result = json.loads((ROOT / stored).read_text())
        mean, spread = result["test_top1_mean"], result["test_top1_sd"]
        reached = f"test/top1 {100 * mean:.2f} % ± {100 * spread:.2f} (mean ± sd over {len(result['runs'])} seeds)"
        assert expects == reached
        assert takes == f"{result['training_s_median']:.0f} s of training"
        assert memory == f"{result['peak_memory_gb']:.1f} GB"
        assert str(result["hardware"]["cores"]) in hardware
        assert result["config"] == f"configs/{config.name}"
