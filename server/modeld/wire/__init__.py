"""The ZeroMQ protocol: frames to requests, results to frames. No sockets here."""
