"""What all tasks share whose model is one body with a head for each adapter."""
