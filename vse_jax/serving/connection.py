"""One HTTP connection: clients that are slow, or send no valid HTTP.

uvicorn waits forever for the rest of a request and for a client that does not read, and
answers invalid HTTP in plain text.
"""

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from vse_jax.serving.answers import SECURITY_HEADERS, to_json

MAXIMUM_CONNECTIONS = 400  # many systems allow a process 1,024 files
# A longer target and headers are refused here, without an answer by the application.
MAXIMUM_HEADER_BYTES = 2**21
_LINGERING_SECONDS = 2.0


class Connection(H11Protocol):
    """Closes a connection that takes too long, and answers errors as JSON.

    Attributes:
      request_seconds: from the beginning of a request to its end.
      reading_seconds: for a client to read what was sent.
    """

    request_seconds = 60.0
    reading_seconds = 60.0

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._request_timer = self._reading_timer = None
        self._is_refused = False

    def connection_made(self, transport) -> None:
        """Waits for a request, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > MAXIMUM_CONNECTIONS:
            self._refuse(503, "too many connections; try again in a moment")
        else:
            self._start_request_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timers."""
        self._stop_request_timer()
        self._stop_reading_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request; ignores what follows after a refusal."""
        if self._is_refused:
            return
        super().data_received(data)
        self._time_request()

    def on_response_complete(self) -> None:
        """Waits for the rest of the request or for the next one."""
        super().on_response_complete()
        self._time_request()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, or has an endless header."""
        self._refuse(400, "this is no valid HTTP request, or its header is too long")

    def pause_writing(self) -> None:
        """Waits for a client that reads slowly, but not forever."""
        super().pause_writing()
        if self._reading_timer is None:
            self._reading_timer = self.loop.call_later(
                self.reading_seconds, self.transport.abort
            )

    def resume_writing(self) -> None:
        """Stops the timer when the client has read."""
        self._stop_reading_timer()
        super().resume_writing()

    def shutdown(self) -> None:
        """Closes the connection, after the answer to a request that has begun."""
        if self._is_refused:
            self.transport.close()
        else:
            super().shutdown()

    def _time_request(self):
        """Starts the timer if a part of a request is here, and stops it at its end."""
        state = self.conn.their_state
        is_begun = state is h11.SEND_BODY or (
            state is h11.IDLE and self.conn.trailing_data[0]
        )
        if self._is_refused or not is_begun:
            self._stop_request_timer()
        elif self._request_timer is None:
            self._start_request_timer()

    def _start_request_timer(self):
        self._request_timer = self.loop.call_later(
            self.request_seconds, self._end_slow_request
        )

    def _stop_request_timer(self):
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _stop_reading_timer(self):
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None

    def _end_slow_request(self):
        seconds = f"{self.request_seconds:g}"
        self._refuse(408, f"the request took longer than {seconds} s to arrive")

    def _refuse(self, status, message):
        """Answers and closes the connection, without waiting for the application."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()  # it is already being answered
            return
        self._is_refused = True
        self._unset_keepalive_if_required()
        if self.cycle is not None:
            self.cycle.disconnected = True  # what the application answers is dropped
            self.cycle.message_event.set()
        body = to_json({"error": message})
        headers = SECURITY_HEADERS | {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        events = (
            h11.Response(
                status_code=status,
                headers=list(headers.items()),
                reason=STATUS_PHRASES[status],
            ),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        try:
            self.transport.write(b"".join(map(self.conn.send, events)))
        except h11.LocalProtocolError:  # a HEAD request takes no body
            self.transport.abort()
            return
        # If the connection were closed while the client still sends, the client would
        # see an error instead of the answer.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGERING_SECONDS, self.transport.close)
