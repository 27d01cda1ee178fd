"""Serves a bundle over HTTP: where nothing was ever trained, with the base install alone."""
