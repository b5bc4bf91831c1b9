"""Kubernetes: manifests written from a run's config, and checked without a cluster (docs/kuberay.md)."""
