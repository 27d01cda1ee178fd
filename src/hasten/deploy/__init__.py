"""A bundle on other machines: the files that a platform wants, with numbers that were measured. One file a platform.

A platform is a class without fields that fills hasten.core.seams.Platform; it is found by name, as techniques are.
"""
