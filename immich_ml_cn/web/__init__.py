"""HTTP: the process, its sockets and connections, routes and forms; nothing else imports starlette and uvicorn."""
