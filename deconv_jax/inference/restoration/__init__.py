"""Restoration of image files by trained networks and classical methods."""
