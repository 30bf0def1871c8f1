"""Tests on a real cluster: shards, replicas and a ZooKeeper, all on this machine."""
