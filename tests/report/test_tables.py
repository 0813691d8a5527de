"""Configuration, origin, runs side by side, seeds."""

from pathlib import Path
from typing import Any

from run_makers import make_run

from resnet18.report.run_files import read_run
from resnet18.report.tables import configuration, differing, provenance, scores, seeds

SUMMED: dict[str, Any] = {
    **{"metric": "test/top1", "n": 3, "mean": 0.9947, "sd": 0.0023, "ci95": [0.9918, 0.9976]},
    **{"test_images": 359, "test_error": [0.98, 0.9985]},
    "per_seed": [{"seed": seed, "state": "finished", "value": 0.99 + seed / 1000, "best_epoch": 9} for seed in (1, 2)],
    "against": {
        **{"group": "sgd-seeds", "n": 3, "mean_difference": 0.004, "ci95": [-0.001, 0.009], "p": 0.081},
        **{"sign_flip_p": 0.25, "floor": 0.25, "differences": {"model.optimizer.lr": [0.002, 0.1]}},
    },
}


def test_a_configuration_stands_by_section() -> None:
    shown = configuration(
        {"experiment": "a<b", "model": {"backbone": {"class_path": "x.Y", "init_args": {"width": 8}}}}
    )
    assert "<summary>general</summary>" in shown
    assert "<td>experiment</td><td><bdi>a&lt;b</bdi></td>" in shown
    assert "<td>backbone.width</td><td><bdi>8</bdi></td>" in shown
    assert "<td>backbone</td><td><bdi>x.Y</bdi></td>" in shown


def test_a_long_diff_is_cut() -> None:
    shown = provenance({"seed": 1, "git": {"sha": "abc", "diff": "<" * 30_000}})
    assert shown.count("&lt;") == 20_000
    assert "10,000 characters more in provenance.json" in shown
    assert "git status" not in shown


def test_runs_stand_side_by_side_with_what_differs(tmp_path: Path) -> None:
    model = {"backbone": {"class_path": "resnet18.backbone.ResNet", "init_args": {"width": 16}}}
    runs = [
        read_run(make_run(tmp_path / "a")),
        read_run(make_run(tmp_path / "b", model=model, tested=False)),
    ]
    rows = scores(runs, ["A", "B"]).split("<tr>")
    assert "90.00\u00a0% (82.6–94.5)" in rows[2]
    assert "93.33\u00a0% in epoch 14" in rows[3]
    assert "<td>–<br>" in rows[3]
    shown = differing(runs, ["A", "B"])
    assert "<td>model.backbone.width</td><td><bdi>8</bdi></td><td><bdi>16</bdi></td>" in shown
    assert "max_epochs" not in shown
    assert "None" in differing(runs[:1] * 2, ["A", "B"])


def test_seeds_are_shown_with_both_errors_and_the_comparison() -> None:
    shown = seeds(SUMMED)
    for part in (
        "test top-1 <b>99.47\u00a0%</b>, the mean of 3 seeds; standard deviation 0.23\u00a0%",
        "95 % interval of the mean 99.18\u00a0% to 99.76\u00a0%",
        "The 359 images are a sample too, which alone leaves 98.00\u00a0% to 99.85\u00a0% open (Wilson)",
        "mean difference <b>0.40\u00a0%</b>, 95 % interval -0.10\u00a0% to 0.90\u00a0%, p 0.0810 by t-test",
        "by exact sign flips (3 pairs can't bring it below 0.2500)",
        "<td>model.optimizer.lr</td><td><bdi>0.002</bdi></td><td><bdi>0.1</bdi></td>",
        "<td>2</td><td>finished</td><td>99.20\u00a0%</td><td>10</td>",
    ):
        assert part in shown
    assert "mean" not in seeds({**SUMMED, "n": 0})
