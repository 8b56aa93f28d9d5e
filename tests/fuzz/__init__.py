"""Bad values for every option of every command: each is refused with a message, and nothing else happens."""
