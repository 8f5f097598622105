"""Classification by any label."""
