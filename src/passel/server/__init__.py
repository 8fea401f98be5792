"""The HTTP server: OpenDroneMap's NodeODM API and its extensions, durable jobs, uploads and downloads.

It knows nothing of the engine: a job is run by a child process, the *driver*, whose command `serving/` gives.
"""
