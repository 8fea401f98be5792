"""A job's side: the process that makes the plan and hands its steps to the coordinator."""
