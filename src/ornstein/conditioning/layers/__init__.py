"""What the encoders of conditions need beside torch."""
