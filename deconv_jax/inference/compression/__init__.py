"""Compression of image files by trained codecs."""
