"""wav2vec 2.0: a native model with fairseq's parameter names, and the reader of fairseq's checkpoints."""
