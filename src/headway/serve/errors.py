"""How an inference request can end other than well. A wire adapter turns each into its own status.

RequestError                    the caller can mend the request (400)
├── NotFoundError               no such model or version (404)
├── ForbiddenError              control calls are not for this caller (403)
├── LoadError                   a bundle does not load; what served before still does (400)
├── TooLargeError               more bytes or rows than the server takes (413)
└── UnsupportedError            the protocol knows it, this server does not (501)
UnavailableError                not ready, or shutting down (503)
├── FullError                   the queue is full; try again (503 with Retry-After)
└── DeadlineError               the deadline passed before there was an answer (504)
InferenceError                  the model failed, or answered what it must not (500)
"""

from headway.core.errors import HeadwayError, RequestError


class NotFoundError(RequestError):
    """No such model or version."""


class ForbiddenError(RequestError):
    """The server does not do this for this caller."""


class LoadError(RequestError):
    """A bundle does not load; what served before still does."""


class TooLargeError(RequestError):
    """More bytes or rows than the server takes."""


class UnsupportedError(RequestError):
    """Part of the protocol that this server does not offer."""


class UnavailableError(HeadwayError):
    """Not ready, or shutting down."""


class FullError(UnavailableError):
    """The queue is full: refused at once rather than kept waiting."""


class DeadlineError(UnavailableError):
    """The request's deadline passed before there was an answer."""


class InferenceError(HeadwayError):
    """The model failed on inputs that fit its description, or its outputs do not fit theirs."""
