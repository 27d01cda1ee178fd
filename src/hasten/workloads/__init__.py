"""Where models and data come from: one file a kind of source."""
