"""The five roles. They meet only through JetStream consumers and the database."""
