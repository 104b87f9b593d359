"""What several protocols share on the wire: errors, JSON, identities, limits, fields of other servers, the OpenAPI document."""
