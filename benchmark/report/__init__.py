"""Reports on studies: ``collect`` reads runs, ``compare`` compares them; ``headline``, ``exhibits``, ``overall`` and
``details`` present them in ``sentences``, ``figures`` and tables; ``page`` puts everything on one page."""
