"""What several data sets share: packed files and the words of the emoji."""
