"""The recipe: typed, complete, and the same mathematics everywhere."""
