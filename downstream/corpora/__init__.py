"""One module a corpus: ``prepare(root) -> Corpus``, and :mod:`downstream.corpora.synthetic`."""
