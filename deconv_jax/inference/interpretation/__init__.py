"""Activations, attributions and preferred inputs of trained networks."""
