"""Keystone as the tests start it: SQLite, Fernet tokens, this process as its web server.

serve_keystone.py FOLDER PORT EXPIRATION: makes FOLDER when it is empty (PORT 0: any), serves, and writes PORT to FOLDER/port
when it answers. EXPIRATION is in seconds.
"""

import os
import pathlib
import socketserver
import subprocess
import sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

folder, port, expiration = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class Handler(WSGIRequestHandler):
    def address_string(self):
        # No look-up of names.
        return self.client_address[0]


server = Server(("127.0.0.1", port), Handler)
port = server.server_address[1]
url = f"http://127.0.0.1:{port}/v3"
config = folder / "keystone.conf"
new = not config.exists()
config.write_text(f"""
[database]
connection = sqlite:///{folder}/keystone.db
[token]
expiration = {expiration}
[fernet_tokens]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/credential
[cache]
enabled = false
[identity]
password_hash_rounds = 4
""")
if new:
    for command in (
        ["db_sync"],
        ["fernet_setup", "--keystone-user", "root", "--keystone-group", "root"],
        ["credential_setup", "--keystone-user", "root", "--keystone-group", "root"],
        ["bootstrap", "--bootstrap-username", "admin", "--bootstrap-password", "krater-5b1c",
         "--bootstrap-project-name", "admin", "--bootstrap-role-name", "admin",
         "--bootstrap-service-name", "keystone", "--bootstrap-region-id", "RegionOne",
         "--bootstrap-public-url", url],
    ):
        manage = pathlib.Path(sys.executable).parent / "keystone-manage"
        subprocess.run([sys.executable, manage, "--config-file", config, *command], check=True)

os.environ["OS_KEYSTONE_CONFIG_DIR"] = str(folder)
os.environ["OS_KEYSTONE_CONFIG_FILES"] = str(config)
sys.argv = ["keystone"]

from keystone.wsgi.api import application  # noqa: E402 (it reads the environment)

server.set_app(application)
(folder / "port").write_text(str(port))
server.serve_forever()
