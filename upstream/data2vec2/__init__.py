"""What data2vec 2.0 adds to wav2vec 2.0's architecture: attention that is biased by the distance of frames."""
