"""The resource that traces and metrics are of: this server."""

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

SERVICE = "semantic-trio"


def resource(version: str) -> Resource:
    """Return the description of the server."""
    return Resource(
        attributes=[attribute("service.name", SERVICE), attribute("service.version", version)]
    )


def scope(version: str) -> InstrumentationScope:
    """Return the description of the code that measures."""
    return InstrumentationScope(name=SERVICE, version=version)


def attribute(name: str, value: str | int) -> KeyValue:
    """Return an attribute of a resource, a span or a data point."""
    return KeyValue(
        key=name,
        value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value),
    )
