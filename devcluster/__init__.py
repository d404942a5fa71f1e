"""A real one-node Kubernetes cluster with an object store, for the demo, the tests and the benchmarks."""
