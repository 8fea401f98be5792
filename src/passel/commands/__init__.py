"""What people type besides `run` and `demo`: a module for each command, `run(words) -> exit code`; cli.py calls them."""
