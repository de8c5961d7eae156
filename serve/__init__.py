"""The HTTP server and the chat page. Installed as `ptune_serve`; torch-free."""
