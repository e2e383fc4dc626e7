"""An OpenAI endpoint over continuous batching: `river-trt serve`.

settings.py   what the command line says, checked before anything is loaded
fields.py     the requests' fields, those that are ignored and those that are refused
asks.py       from a request to prompts and GenerationConfigs
answers.py    from tokens to the answers and the chunks of a stream
logprobs.py   log-probabilities in them; tools.py the calls of tools
routes.py     the endpoints; one request's life, from its body to its last token
gate.py       what stands before every route: keys, body sizes, a line of log for each request
metrics.py    Prometheus, under vLLM's names where the meaning is the same
app.py        the application of all of these; server.py runs it

Needs the extra `serve`; nothing of it is imported by `import river_trt`.
"""
