"""Machines that appear when work arrives and are gone afterwards: providers, sizes, money, and one reconcile loop."""
