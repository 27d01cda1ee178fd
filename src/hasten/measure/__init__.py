"""Numbers with their origin: timing in isolated processes, quality per sample, statistics."""
