"""Parts of the wire that several protocols share: errors, JSON, identities, limits, fields of other
servers, the OpenAPI document.
"""
