"""What two or more accelerations share."""
