"""The files of a run: checkpoints, logs and where they came from."""
