"""The folder that ships: its layout, writing it, reading it, and proving that it is still what was certified."""
