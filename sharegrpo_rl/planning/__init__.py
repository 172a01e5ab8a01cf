"""What a run needs before it starts: its workload, the memory of each process, an estimate of its time, and remedies where
it does not fit. No Ray; torch is loaded only to count the parameters of a model that is not known by name."""
