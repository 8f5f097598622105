"""What studies found: comparisons, sentences, tables, figures, one page."""
