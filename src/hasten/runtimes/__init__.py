"""What runs a model: one file a runtime. See core/seams.py for what a file must hold."""
