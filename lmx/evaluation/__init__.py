"""The test of a finished model: outputs, scores, what is written of them, and what is printed, a file a task."""
