"""A server of tools for tests, which speaks MCP over its standard streams: one tool, that rings."""

import json
import sys
from typing import Any

SCHEMA = {"type": "object", "properties": {"times": {"type": "integer"}}, "required": ["times"]}


def result(asked: dict[str, Any]) -> dict[str, Any] | None:
    """What a request comes to; None for a method that is not known."""
    match asked["method"]:
        case "initialize":
            version = asked["params"]["protocolVersion"]
            return {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "bell", "version": "1"},
            }
        case "tools/list":
            return {
                "tools": [{"name": "ring", "description": "Ring the bell.", "inputSchema": SCHEMA}]
            }
        case "tools/call":
            return {
                "content": [
                    {
                        "type": "text",
                        "text": " ".join(["dong"] * asked["params"]["arguments"]["times"]),
                    }
                ]
            }
    return None


def main() -> None:
    """Answer line by line; notifications have no answer."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" in asked:
            found = result(asked)
            told = (
                {"error": {"code": -32601, "message": "unknown method"}}
                if found is None
                else {"result": found}
            )
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **told}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
