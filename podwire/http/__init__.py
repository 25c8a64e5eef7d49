"""HTTP/1.1 as the Kubernetes API needs it: a server that hands connections over, SPDY/3.1 and WebSocket streams."""
