"""Commands that run a model: `python -m infer.demo`, `python -m infer.simulate`."""
