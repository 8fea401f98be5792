"""A worker's side: the agent, its hosts and its cache; the same beside the coordinator and far away."""
