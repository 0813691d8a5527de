"""Callbacks. In a configuration the class name is enough for those in this folder, yours too."""
