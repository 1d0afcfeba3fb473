"""Position encodings, one file each; `make` builds them by name."""
