"""Anybody's recordings as dialogues of two channels: layouts, labels, speech, faults."""
