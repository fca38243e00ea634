"""nginx as a plain proxy: the limit of what a proxy can do, and the floor that latency is counted from."""

import shutil
import subprocess
from collections.abc import Sequence

from bench.contender import Place

CONFIG = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  client_body_buffer_size 1m;
{server}
}}
"""

PROXY = """\
  upstream cloud {{ server 127.0.0.1:{upstream_port}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://cloud;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
"""


class Nginx:
    """The distribution's nginx. The streaming upstream switches its buffering off by `x-accel-buffering`."""

    name = "nginx"
    about = "plain proxy"

    def __init__(self) -> None:
        self.binary = shutil.which("nginx") or shutil.which("/usr/sbin/nginx") or "nginx"

    def prepare(self) -> str:
        return "" if shutil.which(self.binary) else "nginx is not installed: apt-get install nginx"

    def version(self) -> str:
        said = subprocess.run([self.binary, "-v"], capture_output=True, text=True).stderr
        return said.strip().rpartition("/")[2]

    def command(self, place: Place) -> Sequence[str]:
        server = PROXY.format(port=place.port, upstream_port=place.upstream_port)
        config = place.folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=place.folder, server=server))
        return [self.binary, "-p", str(place.folder), "-c", str(config)]
