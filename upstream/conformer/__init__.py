"""The blocks of wav2vec 2.0 Conformer, in place of the transformer's."""
