"""Speaker verification."""
