"""Faster ways to run the same model. `backends` names them and chooses; every one is tested against the plain engine."""
