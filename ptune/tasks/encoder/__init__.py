"""Code shared by all tasks whose model is one body with a head for each adapter."""
