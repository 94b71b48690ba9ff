"""The benchmark suite: cases, workloads, checks and the run itself."""
