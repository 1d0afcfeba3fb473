"""Transformers for research in JAX and Flax NNX.

Holds the version and nothing else: names are imported from the module that defines them, and importing lmx is quick.
"""

__version__ = "0.1.0.dev0"
