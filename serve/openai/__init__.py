"""Chats and completions in OpenAI's format, with vLLM's additions. The other APIs are translated to it."""
