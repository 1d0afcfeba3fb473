"""Scores what a model wrote or chose against what people wrote or chose.

One module a task; each returns numbers beside a signature that says how they were made. Translations come in as text,
not ids: decoding and detokenising are finished before. No model, no files.
"""
