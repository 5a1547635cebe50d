"""What compressions share: which layers are meant, putting others in their place, and counting bytes."""
