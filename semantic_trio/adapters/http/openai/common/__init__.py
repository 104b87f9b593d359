"""Parts of the wire that several of OpenAI's APIs share."""
