"""The HTTP server: OpenAI's API over `engine.service`, safe by default.

fields -> requests (what may be asked) -> prompt, chat, completions (a request becomes jobs, events
become a body) -> exchange, stream (events of the engine's thread reach a connection) -> app
(routes) -> guard, auth, protocol (who may come in, and how slowly) -> serve, batch (the commands).
Nothing here computes; uvicorn and starlette are imported when a server starts.
"""
