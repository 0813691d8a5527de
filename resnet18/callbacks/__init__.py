"""What the command line adds to a run."""
