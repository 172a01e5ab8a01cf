"""Rule-based rewards: pure functions on strings, a rubric that weighs them, and the processes for mathematics."""
