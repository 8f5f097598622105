"""What WavLM adds to wav2vec 2.0's architecture: attention that is biased by the distance of frames."""
