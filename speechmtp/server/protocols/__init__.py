"""Protocols of the server as pure adapters: messages and events go in, messages and commands come out."""
