"""Reports on studies: ``collect`` reads runs, ``compare`` compares them, ``sentences`` and ``exhibits`` present them,
``page`` puts everything on one page."""
