"""Data: sources of examples, the input pipeline, augmentation, and degradations."""
