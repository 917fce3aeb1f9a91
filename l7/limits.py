"""Every limit of the proxy, its default, and whose practice that is.

Sizes are in bytes and end in `_BYTES`, times are in seconds and end in `_S`, the rest are counts.
"""

# -- Heads -------------------------------------------------------------------------------------------------------------

#: A request head, request line and empty line included. HAProxy: tune.bufsize 16 KiB less tune.maxrewrite 1 KiB.
MAX_REQUEST_HEAD_BYTES = 15 * 1024

#: A request target. nginx: one large_client_header_buffers buffer, 8 KiB. RFC 9112 section 3 asks for 8000 at least.
MAX_REQUEST_TARGET_BYTES = 8 * 1024

#: A response head. Envoy: max_response_headers_kb, 60 KiB.
MAX_RESPONSE_HEAD_BYTES = 60 * 1024

#: Header fields of a message. HAProxy: tune.http.maxhdr 101.
MAX_HEADERS = 101

#: Empty lines before a request line that are forgiven (RFC 9112 section 2.2 asks for at least one). Node.js skips any
#: number; this is the least that the RFC allows.
MAX_LEADING_EMPTY_LINES = 1

#: Interim (1xx) responses before the final one. curl gives up likewise on an endless row of them.
MAX_INTERIM_RESPONSES = 16

#: A PROXY header with all its TLVs. nginx: NGX_PROXY_PROTOCOL_MAX_HEADER 4096.
MAX_PROXY_HEADER_BYTES = 4096

# -- HTTP/2 ------------------------------------------------------------------------------------------------------------

#: Streams of one client connection at a time. Envoy's edge advice: max_concurrent_streams 100.
H2_MAX_CONCURRENT_STREAMS = 100

#: What one stream may send before it is told to go on. Envoy's edge advice: initial_stream_window_size 64 KiB.
H2_STREAM_WINDOW_BYTES = 64 * 1024

#: The same for all streams of a connection. Envoy's edge advice: initial_connection_window_size 1 MiB.
H2_CONNECTION_WINDOW_BYTES = 1024 * 1024

#: Request bytes of one connection that wait for slow servers, above which the whole connection waits. As much as Envoy
#: would let in at all; with less, a few stalled uploads would stall the client's other requests.
H2_MAX_HELD_BYTES = 1024 * 1024

#: Response bytes of one stream that wait for its window, above which its server is no longer read. Envoy: half of the
#: edge advice of 32 KiB.
H2_STREAM_OUTPUT_BYTES = 16 * 1024

#: A compressed header block with all its CONTINUATION frames. Four times what is answered with 431.
H2_MAX_HEADER_BLOCK_BYTES = 64 * 1024

#: CONTINUATION frames of one header block. nghttp2: max_continuations 8 (CVE-2024-28182).
H2_MAX_CONTINUATIONS = 8

#: What a header block may unfold to, with 32 bytes for each field (RFC 7541 section 4.1), before the connection ends.
#: hpack: DEFAULT_MAX_HEADER_LIST_SIZE 64 KiB. Above MAX_REQUEST_HEAD_BYTES the answer is 431.
H2_MAX_HEADER_LIST_BYTES = 64 * 1024

#: Settings in one SETTINGS frame. nghttp2: NGHTTP2_DEFAULT_MAX_SETTINGS 32.
H2_MAX_SETTINGS = 32

#: Control frames at a time, and how many a second are forgotten. Envoy: max_outbound_control_frames 1000.
H2_MAX_CONTROL_FRAMES = 1000
H2_CONTROL_FRAMES_PER_S = 50.0

#: Oddities at a time, and how many a second are forgotten. HAProxy: tune.h2.fe.glitches-threshold, advised "in the
#: hundreds"; it forgets none.
H2_MAX_GLITCHES = 300
H2_GLITCHES_PER_S = 5.0

#: Share of any of these allowances from which a client is asked to leave. HAProxy: 75 % of the glitch threshold.
H2_WARN_SHARE = 0.75

#: Requests after which the share of early resets counts. Envoy: premature_reset_total_stream_count 500.
H2_RESETS_FREE_REQUESTS = 500

#: From the first GOAWAY of a goodbye to the final one: a round trip, as RFC 9113 section 6.8 advises. Envoy:
#: drain_timeout 5 s for HTTP/2's second GOAWAY.
H2_GOAWAY_GRACE_S = 5.0

#: A ClientHello with its record headers. nginx: preread_buffer_size 16 KiB; Envoy's TLS inspector: 16 KiB. The largest
#: seen of browsers, with post-quantum key shares and Encrypted ClientHello, are below 3 KiB.
MAX_HELLO_BYTES = 16 * 1024

#: Records that one ClientHello may be cut into (RFC 8446 section 5.1 sets no bound). Clients that cut at all, to get
#: past censors, make a handful.
MAX_HELLO_RECORDS = 16

#: What backends are told about a client's certificate. Subject alternative names that do not fit are left out; the hash
#: stands for all of them. Half of nginx's usual 8 KiB for a header line.
MAX_CLIENT_CERTIFICATE_BYTES = 4096

# -- Bodies ------------------------------------------------------------------------------------------------------------

#: Decimal digits of a content-length: 10^18 - 1 fits a signed 64-bit integer, as in llhttp and nginx.
MAX_CONTENT_LENGTH_DIGITS = 18

#: Hexadecimal digits of a chunk size. HAProxy refuses more than 2^52; 13 digits are that.
MAX_CHUNK_SIZE_DIGITS = 13

#: A chunk-size line with its extensions; the extensions are dropped. Go's net/http: maxLineLength is 4096.
MAX_CHUNK_LINE_BYTES = 4096

#: Bytes of chunk extensions in a whole body beyond 16 per chunk. Go's net/http: 16 KiB (CVE-2023-39326).
MAX_CHUNK_OVERHEAD_BYTES = 16 * 1024

#: A trailer section; trailers are dropped. Sized as a small head, like Envoy's trailers, which count as headers.
MAX_TRAILER_BYTES = 8 * 1024

# -- Buffers -----------------------------------------------------------------------------------------------------------

#: One read from a socket. HAProxy's buffer is 16 KiB, a TLS record 16 KiB; 64 KiB halves the calls of a download.
READ_BYTES = 64 * 1024

#: A full TLS record (RFC 8446 section 5.1). After one, there is probably more.
TLS_RECORD_BYTES = 16 * 1024

#: Unsent output of one socket above which its source is no longer read. Envoy's edge advice: 32 KiB per connection
#: buffer; one read more than that must fit, for a read that has happened is always forwarded.
OUTPUT_HIGH_WATER_BYTES = 64 * 1024

#: Unsent output below which its source is read again. Envoy: half of the high watermark.
OUTPUT_LOW_WATER_BYTES = 32 * 1024

#: Bytes of a client that wait behind the request in progress (pipelining, or a body whose upstream is not there yet)
#: above which the client is no longer read. One read may exceed it.
MAX_WAITING_BYTES = 16 * 1024

#: Request bytes that are kept for one retry on a fresh connection. nginx: client_body_buffer_size 16 KiB on 64-bit.
MAX_REPLAY_BYTES = 16 * 1024

#: Access-log lines' variable fields (path, host, method) are cut at this length. Splunk-style collectors cut at 10 KiB
#: a line; four such fields stay well below.
MAX_LOG_FIELD_BYTES = 2048

# -- Client deadlines --------------------------------------------------------------------------------------------------

#: A whole PROXY header in front of a connection. proxy-protocol.txt, section 2, asks for 3 s at least, so that a lost
#: segment is no error; a second one may be lost here.
PROXY_HEADER_S = 5.0

#: A whole TLS handshake. Envoy's edge advice: transport_socket_connect_timeout 10 s.
TLS_HANDSHAKE_S = 10.0

#: From a connection's or a request's first byte to the end of its head. HAProxy's advice: timeout http-request 10 s.
REQUEST_HEAD_S = 10.0

#: An idle client connection between two requests, and before the first. nginx: keepalive_timeout 75 s.
CLIENT_IDLE_S = 75.0

#: A whole request body, however steadily it drips in. Envoy's edge advice: request_timeout 300 s. Bytes that come earn
#: more time, at the rate below, so that a large upload over a thin line is not taken for an attack.
REQUEST_BODY_S = 300.0

#: The slowest that a client may send a body, or take the end of its last response, in the long run. Apache
#: mod_reqtimeout: MinRate 500.
MIN_BYTES_PER_S = 500

#: Silence in the middle of a request body, of a response body, or of a client that does not take its response.
#: nginx: client_body_timeout, proxy_read_timeout and send_timeout, 60 s each.
STREAM_IDLE_S = 60.0

#: A gRPC call on which nothing moves; beside it the call's own deadline. Streams that wait for news are silent long.
#: Envoy: idle_timeout of connections 1 h.
GRPC_IDLE_S = 3600.0

#: After the last byte of a response on a connection that closes: how long input is still read and thrown away, so that
#: the client sees the response and not a reset. nginx: lingering_timeout 5 s; Envoy: delayed_close_timeout 1 s.
LINGER_S = 2.0

# -- Tunnels (WebSocket) -----------------------------------------------------------------------------------------------

#: Silence both ways after which the client gets a Ping, and again after as much more. nginx and AWS close what is
#: silent for 60 s, Cloudflare for 100 s; Socket.IO pings
#: every 25 s, the library websockets every 20 s, Phoenix every 30 s.
TUNNEL_PING_S = 30.0

#: Silence both ways, unanswered pings included, after which a tunnel is closed. HAProxy's manual: timeout tunnel 1h.
TUNNEL_IDLE_S = 3600.0

#: After a Close, for the other side's; and after both, for the end of the connection. nginx: lingering_timeout 5 s;
#: the library websockets gives each step 10 s.
TUNNEL_CLOSE_S = 5.0

# -- Connections -------------------------------------------------------------------------------------------------------

#: Open client connections of one worker. nginx advises some thousands (worker_connections); Envoy's edge advice is a
#: global limit, 50 000 downstream connections a process.
MAX_CLIENT_CONNECTIONS = 50_000

#: Connections to one server from one worker, busy and idle. Envoy: circuit breaker max_connections 1024.
MAX_CONNECTIONS_PER_SERVER = 1024

#: Exchanges that wait for a connection to one backend in one worker. Envoy: max_pending_requests 1024.
MAX_PENDING_PER_BACKEND = 1024

#: Idle connections that are kept per server. HAProxy: pool-max-conn, without a bound; nginx's examples: keepalive 32.
MAX_IDLE_PER_SERVER = 64

#: Connecting to a server. Envoy: connect_timeout 5 s.
CONNECT_S = 5.0

#: An idle upstream connection. Below the backends' own (nginx 75 s, Apache 5 s, Node.js 5 s), so that they seldom
#: close first. HAProxy: pool-purge-delay 5 s; 4 s is below all of those named.
UPSTREAM_IDLE_S = 4.0

#: An HTTP/2 connection to a server without streams. A server that is faster says so by GOAWAY, after which what it has
#: not begun is safe to send again. nginx: keepalive_timeout 60 s towards upstreams, and 75 s as a server.
H2_UPSTREAM_IDLE_S = 60.0

#: Bytes on an HTTP/2 connection to a server that its host does not acknowledge: the connection is dead, whoever still
#: waits on it. gRPC: TCP_USER_TIMEOUT 20 s (gRFC A18).
H2_UNACKNOWLEDGED_S = 20.0

#: Retries of one request on a fresh connection after a pooled one proved stale. nginx and Envoy: one.
MAX_STALE_RETRIES = 1

# -- The reactor -------------------------------------------------------------------------------------------------------

#: Ready descriptors taken at once. nginx: epoll_events 512; libuv: 1024; less keeps a batch short.
BATCH_EVENTS = 256

#: Time of one batch, after which other tasks of the worker (health checks, snapshots) have their turn. HAProxy bounds
#: its rounds likewise (tune.runqueue-depth); 5 ms is well below any timeout here.
BATCH_S = 0.005

#: Resolution of deadlines, which are all of whole seconds. nginx's examples: timer_resolution 100 ms.
TIMER_TICK_S = 0.1

#: Slots of the timer wheel: 102 s, more than every deadline but a route's longest.
TIMER_SLOTS = 1024

#: Connections accepted in one step, so that siblings get some and established flows are not starved. nginx takes one at
#: a time (multi_accept off); HAProxy: tune.maxaccept 4 for several threads.
ACCEPTS_PER_STEP = 8

#: Pause after a failed accept (no descriptors, no memory), instead of a busy loop. nginx: accept_mutex_delay 500 ms.
ACCEPT_PAUSE_S = 0.5

#: Backlog of a listening socket; the kernel cuts it to net.core.somaxconn. HAProxy: backlog = maxconn; 4096 is the
#: kernel's own default since 5.4.
LISTEN_BACKLOG = 4096

#: Open connections of one client address in one worker. Large carrier-grade NATs put some hundreds of users behind an
#: address; nginx's examples of limit_conn are far below.
MAX_CONNECTIONS_PER_CLIENT = 4096

# -- Upstream ----------------------------------------------------------------------------------------------------------

#: Servers that are tried for one request before it fails, while nothing of it has been sent. nginx's examples:
#: proxy_next_upstream_tries 3.
MAX_CONNECT_ATTEMPTS = 3

#: Answer of a health check that is read to find its status line. HAProxy: tune.chksize, a buffer of 16 KiB.
MAX_HEALTH_ANSWER_BYTES = 16 * 1024

#: Share by which the interval of health checks varies, so that the checks of many proxies do not meet. Envoy:
#: interval_jitter; HAProxy: spread-checks, advised between 2 and 5 %.
HEALTH_JITTER = 0.1

# -- Goodbyes ----------------------------------------------------------------------------------------------------------

#: An idle connection of a draining proxy, from its turn in the spread until it is closed without a request. A request
#: that crosses such a close on the wire is lost (RFC 9112 section 9.5), so this is longer than most clients pause.
GOODBYE_IDLE_S = 10.0

#: The spread of the goodbyes of a process that is to end, at most. Its clients come back to this same host, which is
#: spared a herd of handshakes by that. HAProxy has close-spread-time for the same, without a default.
STOP_SPREAD_S = 30.0

#: How often a draining worker looks whose turn it is.
GOODBYE_TICK_S = 0.1

#: SIGTERM: what is open may end within this time. Kubernetes: terminationGracePeriodSeconds 30.
STOP_GRACE_S = 30.0

# -- Telemetry ---------------------------------------------------------------------------------------------------------

#: Records that wait to be written. At 10 000 requests a second, a disk may stall for three seconds; then records are
#: dropped and counted, never requests.
MAX_LOG_RECORDS = 32 * 1024

#: Records formatted between two turns of the reactor: about a millisecond, less than a batch (see BATCH_S).
LOG_PORTION = 256

#: How often records are written. nginx's examples: access_log flush=1s or less.
LOG_FLUSH_S = 0.2

#: After the redirector's map of arrivals could not be opened: until it is tried again. As often as systemd would start
#: a failed redirector (RestartSec, in practice some seconds).
INGRESS_RETRY_S = 5.0

#: A request for metrics, head and all. Prometheus sends about 300 bytes.
MAX_METRICS_REQUEST_BYTES = 8 * 1024

#: Reading a request for metrics and writing the answer. Prometheus: scrape_timeout 10 s.
METRICS_S = 10.0

# -- Processes ---------------------------------------------------------------------------------------------------------

#: How often a worker reports to the supervisor: as often as the supervisor does to the orchestrator.
WORKER_STATUS_S = 1.0

#: A worker's answer to a snapshot. Loading a thousand certificates takes about a second.
WORKER_APPLY_S = 20.0

#: Pause before a dead worker is started again: doubled at each death, back to the first after a minute of life.
#: systemd: RestartSec 100 ms, with RestartMaxDelaySec.
WORKER_RESTART_FIRST_S = 0.1
WORKER_RESTART_MAX_S = 10.0

# -- Restarts ----------------------------------------------------------------------------------------------------------

#: Until a new incarnation must be in service; else it is ended, and the present one goes on. systemd: TimeoutStartSec
#: 90 s, for what nobody waits beside.
RESTART_S = 60.0

#: Until the present incarnation must be ready to be succeeded: a snapshot that it is taking in comes first.
RESTART_HOLD_S = 30.0

#: What the connections of an incarnation that leaves have to end. Envoy: drain-time-s 600.
RESTART_GRACE_S = 600.0

#: Until an operator's answer must be on its way, when the incarnation that was asked leaves.
RESTART_ANSWER_S = 5.0

#: After a grace of which an incarnation should have made use: until all its processes are killed.
INCARNATION_KILL_AFTER_S = 10.0

#: A message between keeper and incarnation: totals of some ten thousand counters.
MAX_HANDOVER_FRAME_BYTES = 8 * 1024 * 1024
