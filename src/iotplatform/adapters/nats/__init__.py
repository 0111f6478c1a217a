"""NATS and JetStream: the connection that heals, the publisher, the readers, the streams."""
