"""What a run needs before it starts: memory of each process, steps, tokens, an estimate of time. No Ray; torch is loaded
only to count the parameters of a model that is not known by name."""
