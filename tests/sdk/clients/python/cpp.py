"""AWS SDK for C++, as pyarrow's file system of S3 brings it.

It calls no STS. The S3 that it asks is in this process, says that an empty object is there, and reads the access key from the signature.
"""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from protocol import serve
from pyarrow.fs import S3FileSystem

file_system = None
signatures = []


class S3(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        signatures.append(self.headers.get("Authorization", ""))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def identity(request):
    global file_system
    if request == "fetch":
        address = f"127.0.0.1:{server.server_port}"
        file_system = S3FileSystem(endpoint_override=address, scheme="http", region=os.environ["AWS_REGION"])
    signatures.clear()
    file_system.get_file_info("bucket/key")
    access_key_id = signatures[-1].partition("Credential=")[2].partition("/")[0]
    if not access_key_id:
        raise PermissionError("the request is not signed")
    return {"access_key_id": access_key_id}


server = ThreadingHTTPServer(("127.0.0.1", 0), S3)
Thread(target=server.serve_forever, daemon=True).start()
serve(identity)
