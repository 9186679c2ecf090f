"""An S3 server (moto) on 127.0.0.1. Prints its port. The second argument makes it a server of before conditional writes."""

import sys

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

server = DomainDispatcherApplication(create_backend_app)
is_old = sys.argv[1:] == ["overwrites"]


def application(environ, start_response):
    if is_old:
        environ.pop("HTTP_IF_NONE_MATCH", None)
    return server(environ, start_response)


listener = make_server("127.0.0.1", 0, application, threaded=False)
print(listener.port, flush=True)
listener.serve_forever()
