"""Who is connected and what that allows: credentials, roles, origins."""
