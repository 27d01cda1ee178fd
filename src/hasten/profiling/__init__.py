"""`hasten profile`: where the time and the memory of a model go on each runtime, how it scales, and what bounds it."""
