"""The phrasebook: a grammar of our own that writes English-German sentence pairs, data that needs no download."""
