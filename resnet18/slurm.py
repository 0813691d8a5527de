"""Asking SLURM to queue the running job again."""

import os
import subprocess

from resnet18.errors import RunError


def requeue() -> str:
    """Has the job that this process is part of queued again, under its old number.

    Returns:
        The job's number.

    Raises:
        RunError: Where SLURM refuses.
    """
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    except OSError as error:
        raise RunError(f"job {job} could not be queued again: scontrol: {error.strerror}") from None
    if done.returncode:
        raise RunError(f"job {job} could not be queued again: {done.stderr.strip()}")
    return job
