"""Drawing: image grids, plots, overlays and panels. No model or training code."""
