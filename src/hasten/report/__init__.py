"""A bundle's evidence for people: one self-contained HTML file, and tables for the terminal."""
