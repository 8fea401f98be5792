"""Clouds and own hosts behind the one interface of `fleet.machine.Provider`; only these files import clouds' SDKs."""
