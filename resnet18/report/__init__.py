"""What is drawn, counted and sent of runs that are there: the page, intervals, W&B's media. Never in training."""
