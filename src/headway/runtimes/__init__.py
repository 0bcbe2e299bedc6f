"""Floor 2: what runs a model file. One small file a runtime, behind the protocols of `runtime.py`."""
