"""`bench.live` for models of usual sizes on one GPU, with weights drawn there: `python -m bench.gpu`."""
