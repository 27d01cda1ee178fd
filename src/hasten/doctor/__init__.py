"""Questions that are put to the machine itself: one file a check."""
