"""What Lightning says of itself stays out of a run's output; what it warns of stays in."""

import logging
import warnings

import pytest

from resnet18.cli.notices import filter_notices

RANK_ZERO = logging.getLogger("lightning.pytorch.utilities.rank_zero")


@pytest.mark.parametrize(
    ("text", "is_said"),
    [
        ("💡 Tip: For seamless cloud uploads and versioning, try litmodels", False),
        ("GPU available: False, used: False", False),
        ("Using 16bit Automatic Mixed Precision (AMP)", False),
        ("Restored all states from the checkpoint at run/checkpoints/last.ckpt", False),
        ("[rank: 1] Seed set to 1", False),
        (f"{100 * '-'}\ndistributed_backend=gloo\n{100 * '-'}\n", False),
        ("\nDetected KeyboardInterrupt, attempting graceful shutdown ...", False),
        ("Metric val/loss improved. New best score: 1.234", True),  # asked for by verbose: true
        ("Found 3 module(s) in eval mode at the start of training.", True),
    ],
)
def test_notices_are_kept_out_and_the_rest_is_not(text: str, is_said: bool) -> None:
    filter_notices()
    record = RANK_ZERO.makeRecord(RANK_ZERO.name, logging.INFO, __file__, 1, text, (), None)
    assert bool(RANK_ZERO.filter(record)) == is_said


def test_warnings_that_matter_stay() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filter_notices()
        warnings.warn("Checkpoint directory runs/digits exists and is not empty.", stacklevel=1)
        warnings.warn("The number of training batches (3) is smaller than the logging interval", stacklevel=1)
        warnings.warn("The 'train_dataloader' does not have many workers", stacklevel=1)
    assert [str(one.message) for one in caught] == ["The 'train_dataloader' does not have many workers"]
