"""What everyone speaks: the nouns, the seams and the errors. Standard library, numpy and pydantic only.

Pillow is the one guest: preprocess.py decodes pictures with it, when there are pictures.
"""
