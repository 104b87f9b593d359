"""What several of OpenAI's APIs share on the wire."""
