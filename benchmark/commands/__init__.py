"""The commands of ``wavbench``, one module each."""
