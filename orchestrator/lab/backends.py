"""The lab's backends: one nginx on each backend host, all with the same content (see `content`)."""

from pathlib import Path
from typing import Final

from orchestrator.lab.content import BYTES_PATH, HEALTH_PATH, MAX_UPLOAD_BYTES, UPLOADS_PATH
from orchestrator.lab.topology import BACKEND_PORT, LabHost

#: Seconds. Longer than any proxy keeps an idle connection, so that it is always the proxy that closes one.
KEEPALIVE_TIMEOUT: Final = 3600

#: nginx would close each connection after 1000; the lab's load is about the edge, not about its backends' habits.
KEEPALIVE_REQUESTS: Final = 10_000_000


def nginx_command(directory: Path) -> list[str]:
    """In the foreground, with everything that it writes in the host's directory."""
    return [
        "nginx",
        "-p",
        str(directory),
        "-c",
        str(directory / "nginx.conf"),
        "-e",
        str(directory / "nginx-error.log"),
    ]


def spool(directory: Path) -> Path:
    """Where nginx keeps bodies that are too large for its buffers."""
    return directory / "spool"


def nginx_configuration(host: LabHost, directory: Path, content: Path, uploads: Path) -> str:
    """One server, which names itself in `X-Backend` and in the body of what has none of its own.

    Workers stay root: the lab's directory is closed to everybody else, and in a lab there is nobody to keep out.
    """
    bodies = spool(directory)
    return f"""\
user root;
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
events {{ worker_connections 4096; }}

http {{
  access_log off;
  server_tokens off;
  sendfile on;
  sendfile_max_chunk 4k;
  tcp_nodelay on;
  keepalive_timeout {KEEPALIVE_TIMEOUT};
  keepalive_requests {KEEPALIVE_REQUESTS};
  default_type application/octet-stream;
  client_max_body_size {MAX_UPLOAD_BYTES};
  client_body_temp_path {bodies}/body;
  proxy_temp_path {bodies}/proxy;
  fastcgi_temp_path {bodies}/fastcgi;
  uwsgi_temp_path {bodies}/uwsgi;
  scgi_temp_path {bodies}/scgi;

  server {{
    listen {host.address}:{BACKEND_PORT};
    add_header X-Backend {host.name} always;

    location / {{ default_type text/plain; return 200 "{host.name}\\n"; }}
    location = {HEALTH_PATH} {{ default_type text/plain; return 200 "ok\\n"; }}
    location {BYTES_PATH} {{ root {content}; limit_rate $arg_rate; }}
    location {UPLOADS_PATH} {{ alias {uploads}/; dav_methods PUT DELETE; }}
  }}
}}
"""


def write_nginx_configuration(host: LabHost, directory: Path, content: Path, uploads: Path) -> None:
    """Writes `nginx.conf` and what nginx wants to find there."""
    spool(directory).mkdir()
    (directory / "nginx.conf").write_text(nginx_configuration(host, directory, content, uploads))
