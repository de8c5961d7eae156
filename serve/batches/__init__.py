"""OpenAI's Batch API: the requests of a file, answered one by one, and gone on with after a restart."""
