"""A synthetic survey with known truth, for the demo and the tests."""
