"""Keeps Lightning's advertisements and repeated notices out of a run's output; warnings that matter stay."""

import logging
import os
import re
import warnings

NOTICES = re.compile(
    "💡"  # advertisements for litlogger and litmodels, without a switch in 2.6.6
    "|[GTH]PU available|Using (bfloat16|16bit)|Seed set to|Initializing distributed|----"  # printed at the start
    "|You are using a CUDA device"  # in float32; cuDNN's convolutions are in TF32 anyway
    "|Loading `train_dataloader`|Restoring states|Restored all states|Loaded model weights"
    "|`Trainer.fit` stopped|Time limit reached|Detected KeyboardInterrupt|.rank:"  # printed at the end
)
WARNINGS = (
    "Detected call of `lr_scheduler.step",  # in 16-mixed the scaler skips the first steps, until it has its scale
    r".*isinstance\(treespec, LeafSpec\)",  # torch ≥ 2.14, in Lightning
    "The number of training batches",  # an epoch is logged however short
    "Checkpoint directory .* exists and is not empty",  # on resuming
    "You're resuming from a checkpoint that ended before the epoch ended",  # the loaders need no state of their own
    r"\s*Unable to serialize instance",  # a function's name, see program.py
)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not NOTICES.match(record.getMessage().lstrip())


def filter_notices() -> None:
    """Filters the process's logging and warnings; call it before importing Lightning."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning 2.6 calls what version 5 will drop
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_wanted)
    for name in ("rank_zero", "seed", "distributed"):
        logging.getLogger(f"lightning.fabric.utilities.{name}").addFilter(_is_wanted)
    logging.getLogger("lightning.pytorch.accelerators.cuda").setLevel(logging.WARNING)  # LOCAL_RANK: 0 - CUDA_VISIBLE…
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)
