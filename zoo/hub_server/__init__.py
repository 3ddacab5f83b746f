"""A Hub that fits in one process: what the stock Hugging Face client needs, on a directory.

It is there for `zoo serve`, the demo and the tests. Nothing here is imported by the rest of zoo, so Starlette and
uvicorn (extra `[serve]`) are needed only where a Hub is started; `zoo.hub_server.process.running_hub` is the way in.
"""
