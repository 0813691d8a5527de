"""Asking SLURM to queue the running job again."""

import os
import subprocess
import sys

from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def requeue() -> None:
    """Has the job that this process is part of queued again, under its old number, and says what came of it."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        failure = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        failure = f"scontrol: {error.strerror}"
    print(f"job {job} is queued again" if not failure else f"job {job} is not queued again: {failure}", file=sys.stderr)
