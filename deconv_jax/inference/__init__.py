"""A trained model, or a classical method, at work on a person's files."""
