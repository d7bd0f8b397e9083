"""Where a new conversation goes on a cluster; apart from `infer.cluster`, since Ray loads it by name into its proxies."""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, ReplicaResult, RequestRouter, RunningReplica


class FewestConversations(RequestRouter):
    """Asks all replicas and takes the one with the fewest conversations, so that a free place is always found.

    Serve's own choice looks at two replicas drawn at random: right for short requests, but with conversations that last
    it would turn clients away from two full replicas while a third has room.
    """

    async def choose_replicas(self, candidate_replicas: list[RunningReplica],
                              pending_request: PendingRequest | None = None) -> list[list[RunningReplica]]:
        """All candidates, as one group among which the least busy is taken."""
        return [candidate_replicas]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: object, result: ReplicaResult) -> None:
        """Nothing is remembered."""
