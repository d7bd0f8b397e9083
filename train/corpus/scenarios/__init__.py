"""What is said: one file a theme, one function a scenario. Importing the package registers all of them."""

from train.corpus.scenarios import cafe, facts, languages, memory, more, numbers, sounds, speech, stories, talk

__all__ = ["cafe", "facts", "languages", "memory", "more", "numbers", "sounds", "speech", "stories", "talk"]
