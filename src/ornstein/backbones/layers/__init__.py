"""What two or more backbones share."""
