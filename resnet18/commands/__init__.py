"""The sub-commands beyond Lightning's own, one file each."""
