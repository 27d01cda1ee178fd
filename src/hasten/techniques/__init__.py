"""Ways to make a model smaller or faster: one file a technique. See core/seams.py for what a file must hold."""
