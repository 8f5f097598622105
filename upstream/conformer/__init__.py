"""The blocks of wav2vec 2.0 Conformer and w2v-BERT 2.0, in place of the transformer's."""
