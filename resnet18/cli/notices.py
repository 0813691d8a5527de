"""Keeps Lightning's advertisements and repeated notices out of a run's output; warnings that matter stay."""

import logging
import os
import warnings

_NOTICES = (
    "💡",  # advertisements for litlogger and litmodels, without a switch in 2.6.6
    "GPU available",
    "TPU available",
    "HPU available",
    "You are using a CUDA device",  # in float32; cuDNN's convolutions are in TF32 all the same
    "Using bfloat16",
    "Using 16bit",
    "Seed set to",
    "Loading `train_dataloader`",
    "`Trainer.fit` stopped",
    "Time limit reached",  # the closing lines say so
    "Restoring states",
    "Restored all states",
    "Loaded model weights",
    "Detected KeyboardInterrupt",
    "Initializing distributed",
    "----",  # a box about the number of processes
    "[rank:",
)


def _wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().lstrip().startswith(_NOTICES)


def filter_notices() -> None:
    """Filters the process's logging and warnings; meant to be called before Lightning is imported."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning 2.6 calls what version 5 will drop
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_wanted)
    for name in ("rank_zero", "seed", "distributed"):
        logging.getLogger(f"lightning.fabric.utilities.{name}").addFilter(_wanted)
    logging.getLogger("lightning.pytorch.accelerators.cuda").setLevel(logging.WARNING)  # LOCAL_RANK: 0 - CUDA_VISIBLE…
    # In 16-mixed the scaler leaves out the first steps, until it has found its scale.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # torch ≥ 2.14, in Lightning
    warnings.filterwarnings("ignore", message="The number of training batches")  # an epoch is logged however short
    # The loaders here begin where the Trainer's counters say, without a state of their own.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # on resuming
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
    warnings.filterwarnings("ignore", message=r"\s*Unable to serialize instance")  # the name of a function, see cli
