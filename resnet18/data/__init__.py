"""Data sources; ``base`` is what they share. Yours goes beside them, or into a file of your own."""
