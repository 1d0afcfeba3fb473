"""CTranslate2's models: a folder with model.bin, config.json and vocabularies, read and written here without it."""
