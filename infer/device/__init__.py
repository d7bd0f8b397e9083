"""Live ends: sound devices, echo cancellation, the loop between them and a session, its view and its recording."""
