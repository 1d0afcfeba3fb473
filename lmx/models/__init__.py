"""Model families: one file each, the config beside the model."""
