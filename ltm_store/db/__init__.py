"""The engine room: statements, connections, transactions, users' numbers."""
