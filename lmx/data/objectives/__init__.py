"""What a language model learns from a row of tokens: each objective is a pure function of the row and of (seed, index).

A raw row has `tokens`, `segments` (which document of the row a token belongs to; 0 is padding) and `positions` (its
place in the document). An objective returns the arrays of a batch: what a model reads and what it shall predict. Rows
come many at a time, with any axes in front; `index` numbers each of them, so that hosts which make other rows of one
batch draw the same numbers as one host that makes all. Nothing here knows a model, a tokenizer or a file.
"""
