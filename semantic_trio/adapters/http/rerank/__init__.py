"""The Rerank API, as Cohere, Jina, vLLM and llama.cpp have it."""
