"""Safe readers of other projects' checkpoint files, for any family of models."""
