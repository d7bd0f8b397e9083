"""Measures of conversations and of sound: pure functions of segments, words and samples, without files and clocks."""
