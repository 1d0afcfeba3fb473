"""Scores what a model wrote against what people wrote.

One module a task; each returns numbers beside a signature that says how they were made. Text comes in, not ids:
decoding and detokenising are finished before. No model, no files.
"""
