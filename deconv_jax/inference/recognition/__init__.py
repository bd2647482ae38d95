"""ClassProbabilities, segments and boxes predicted for image files."""
