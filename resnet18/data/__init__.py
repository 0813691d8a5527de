"""Data sources, and their ``base``. Yours goes beside them, or into a file of your own."""
