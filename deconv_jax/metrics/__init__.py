"""Evaluation metrics, exact over masked, sharded evaluation sets."""
