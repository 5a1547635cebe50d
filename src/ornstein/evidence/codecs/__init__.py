"""Evidence of the methods in codecs/."""
