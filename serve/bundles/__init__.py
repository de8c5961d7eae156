"""Several bundles behind one port: loaded when they are asked for, unloaded when they are idle or others need the room."""
