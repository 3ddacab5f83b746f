"""Names of the files in a folder of results."""

RESULTS = "results.jsonl"
SETTINGS = "settings.json"
