"""What the bridge to diffusers is made of: the terms of a scheduler, our scheduler, plugins in a pipeline."""
