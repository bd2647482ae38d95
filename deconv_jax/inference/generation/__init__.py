"""Images sampled from trained generators."""
