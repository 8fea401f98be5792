"""Passel as a client: hands photos to another Passel, or any NodeODM server, and brings the map back."""
