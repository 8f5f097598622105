"""Classification by several labels at once."""
