"""The server's parts: batch rows, seats, the loop that steps them, the wires, access and metrics."""
