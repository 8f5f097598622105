"""What w2v-BERT 2.0 has in place of wav2vec 2.0's convolutions over the waveform."""
