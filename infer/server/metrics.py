"""Counters of the server in Prometheus' format; each server has a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.064, 0.08, 0.12, 0.16, 0.24, 0.4, 0.8)


class Metrics:
    """All metrics; names carry their units, times are in seconds."""

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.slots = Gauge("duplex_slots", "Conversations that fit at once", registry=r)
        self.sessions = Gauge("duplex_sessions", "Conversations that are running", registry=r)
        self.admitted = Counter("duplex_sessions_admitted", "Conversations begun", ["protocol"], registry=r)
        self.refused = Counter("duplex_sessions_refused", "Clients turned away", ["cause"], registry=r)
        self.ended = Counter("duplex_sessions_ended", "Conversations over", ["cause"], registry=r)
        self.received = Counter("duplex_received_frames", "Frames of users that came complete", registry=r)
        self.frames = Counter("duplex_frames", "Frames of 80 ms given to clients", registry=r)
        self.dropped = Counter("duplex_dropped_frames", "Frames of users that were let go", ["kind"], registry=r)
        self.late = Counter("duplex_late_frames", "Frames that took longer than 80 ms from their arrival", registry=r)
        self.step = Histogram("duplex_step_seconds", "One step of the batch", buckets=_SECONDS, registry=r)
        self.step_cpu = Histogram("duplex_step_cpu_seconds", "Processor time of one step: without waiting for a busy machine",
                                  buckets=_SECONDS, registry=r)
        self.latency = Histogram("duplex_frame_seconds", "From a user's frame being complete to the system's being ready",
                                 buckets=_SECONDS, registry=r)
        self.crashes = Counter("duplex_step_failures", "Steps of the batch that ended in an error", registry=r)

    def text(self) -> bytes:
        """The exposition that a scraper reads."""
        return generate_latest(self.registry)
