"""One module per corpus: ``prepare(root) -> Corpus``, and :mod:`downstream.corpora.synthetic`."""
