"""Files, options and checkpoints given together: which one counts, and which is blamed."""

from pathlib import Path

import pytest
import yaml
from conftest import CONFIG, SMALL, copied


@pytest.fixture(scope="module")
def trained(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, to be scored."""
    return copied(trained, tmp_path_factory.mktemp("scored"))


def shown(lightning, capfd: pytest.CaptureFixture[str], *arguments: object) -> dict:
    with pytest.raises(SystemExit):
        lightning(*arguments, "--print_config")
    return yaml.safe_load(capfd.readouterr().out)


def test_later_files_override_earlier_ones_and_options_override_all(lightning, tmp_path: Path, capfd) -> None:
    (tmp_path / "one.yaml").write_text("trainer: {max_epochs: 1, min_epochs: 1}\nmodel: {ema: 0.1}\n")
    (tmp_path / "two.yaml").write_text("trainer: {max_epochs: 2}\nmodel: {ema: 0.2}\n")
    files = ("--config", CONFIG, "--config=one.yaml", "--model.ema", "0.5", "-c", "two.yaml")
    config = shown(lightning, capfd, "fit", *files)
    assert (config["trainer"]["max_epochs"], config["trainer"]["min_epochs"], config["model"]["ema"]) == (2, 1, 0.5)


def test_numbers_and_texts_of_a_file_keep_their_types(lightning, tmp_path: Path, capfd) -> None:
    (tmp_path / "one.yaml").write_text(
        "model: {optimizer: {init_args: {lr: 1e-3}}}\n"
        'trainer: {max_time: "00:01:00:00", callbacks: [{class_path: Timer, init_args: {duration: "00:02:00:00"}}]}\n'
    )
    config = shown(lightning, capfd, "fit", "--config", CONFIG, "--config", "one.yaml")
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.001
    assert config["trainer"]["max_time"] == "00:01:00:00"
    assert config["trainer"]["callbacks"][0]["init_args"]["duration"] == "00:02:00:00"


def test_what_a_checkpoint_decides_is_not_changed_and_other_changes_are_printed(lightning, trained: Path) -> None:
    done = lightning("fit", "--ckpt_path", trained, "--model.ema", "0.5", "--data.batch_size", "32")
    assert done.status == 2
    assert "changed: model.ema: 0.0 → 0.5; data.batch_size: 64 → 32. For a new run" in done.err
    done = lightning("test", "--ckpt_path", trained, "--model.ema", "0.5")
    assert "the model comes from the checkpoint; changed: model.ema: 0.0 → 0.5" in done.err
    done = lightning("test", "--ckpt_path", trained, "--data.eval_batch_size", "100")
    assert done.status == 0, done.err
    assert "changed from the stored run: data.eval_batch_size: 512 → 100" in done.out


def test_null_is_refused_by_file_and_key_unless_it_is_a_valid_value(lightning, tmp_path: Path) -> None:
    (tmp_path / "null.yaml").write_text("data: {init_args: {batch_size: null}}\n")
    done = lightning("fit", "--config", CONFIG, "--config", "null.yaml")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "null.yaml: data.batch_size: expected a whole number, not null" in done.err
    nulls = ("--model.schedule", "null", "--model.optimizer.fused", "null", "--data.root", "null")
    done = lightning("fit", "--config", CONFIG, *SMALL, *nulls, "--trainer.fast_dev_run", "1")
    assert done.status == 0, done.err
