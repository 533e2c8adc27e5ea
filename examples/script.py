"""Submit a job over HTTP, watch its text, then read the whole job.

    python examples/script.py "In a small village"

TOKENRELAY_URL says where the server is, TOKENRELAY_API_KEY is your key if the server wants one.
"""

import os
import sys

from tokenrelay import Client

prompt = sys.argv[1] if len(sys.argv) > 1 else "Once upon a time"
url = os.environ.get("TOKENRELAY_URL", "http://127.0.0.1:8000")

with Client(url, os.environ.get("TOKENRELAY_API_KEY")) as client:
    # The server has stored the job when this returns. From here on, this program may end and come back later.
    job = client.submit(prompt, max_tokens=30, temperature=0.7, metadata={"from": "examples/script.py"})
    print("job", job.id)

    # Each event comes once and in order. When the connection breaks, the client reconnects and continues.
    for event in client.stream(job.id):
        if event["type"] == "token":
            print(event["text"], end="", flush=True)
    print()

    # The same job from its id alone, as another program would read it tomorrow.
    job = client.get(job.id)
    print(job.status, job.fields["usage"]["completion_tokens"], "tokens")
