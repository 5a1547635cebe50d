"""What adapters share: finding layers by role, freezing a network while an adapter sits on it, and files."""
