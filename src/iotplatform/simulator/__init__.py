"""The fleet behind `iotplatform simulate`: a client that knows the outside HTTP contract and nothing of the inside."""
