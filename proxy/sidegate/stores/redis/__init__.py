"""The Redis store: one server, Sentinel or Cluster; change notifications; pending revocations."""
