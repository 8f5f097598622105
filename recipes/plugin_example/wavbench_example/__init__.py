"""What wavbench finds through the entry points of ``setup.cfg``."""
