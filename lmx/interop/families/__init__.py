"""Families of others' models, one file each: config, config back, and the table of their parameters."""
