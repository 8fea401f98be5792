"""The stage graph, the steps, the store with its manifests, and the run."""
