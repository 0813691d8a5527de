"""A trained run, looked at in Jupyter: curves, predictions, errors, features; matplotlib and pandas are optional."""
