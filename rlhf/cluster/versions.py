"""The versions that manifests are written for; tests hold them to the pins and to the schemas."""

RAY = "2.60.0"
KUBERAY = "v1.7.0"
