"""What KubeRay's operator (v1.7.0) refuses beyond its schemas, Kubernetes refuses of the pods that the operator
makes, and what Kueue refuses of a Ray job that waits in a queue."""
