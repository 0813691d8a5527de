"""Callbacks; of those in this folder, yours too, the class name alone is enough in a configuration."""
