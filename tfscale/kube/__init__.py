"""Kubernetes: the port (verbs), its adapter on the official client, and the conversion of objects into the model."""
