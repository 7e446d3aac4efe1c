"""What people and machines that run a server touch: processes, settings, TLS, tokens, logs, metrics, traces."""
