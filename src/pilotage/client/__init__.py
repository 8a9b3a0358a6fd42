"""What runs in the user's program: session, managers, handles and descriptions."""
