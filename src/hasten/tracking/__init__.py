"""Writes a finished search to MLflow: it reads evidence, after the search, in a process of its own."""
