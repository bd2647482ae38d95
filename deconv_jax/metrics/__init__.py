"""Measures, exact over a masked, sharded evaluation set."""
