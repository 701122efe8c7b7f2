"""Training: recipes, the loop and the files of a run."""
