"""How a request can fail that was itself right."""

from river_trt.errors import RiverError


class RejectedError(RiverError):
    """The server has as many requests as it may; try again later."""


class ServerClosedError(RiverError):
    """The server was closed, or its worker died, before the request was done."""
