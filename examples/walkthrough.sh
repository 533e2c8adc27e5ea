#!/bin/sh
# The whole life of a job with curl: submit, come back, stream, resume, cancel.
#
#     sh examples/walkthrough.sh
#
# TOKENRELAY_URL says where the server is. With API keys, add -H "Authorization: Bearer KEY" to each call.
set -eu
server=${TOKENRELAY_URL:-http://127.0.0.1:8000}

# The value of a JSON answer's first "id". With jq it would be: jq -r .id
job_id() { sed -n 's/^{"id": *"\(job_[^"]*\)".*/\1/p'; }

echo "1. Submit. The answer comes at once; the server has stored the job."
# The Idempotency-Key makes a repetition safe: the same key and body lead to the same job.
key=walkthrough-$$
body='{"prompt": "Once upon a time there was", "max_tokens": 12, "temperature": 0.7, "seed": 1}'
submit() { curl -sS "$server/v1/jobs" -H 'Content-Type: application/json' -H "Idempotency-Key: $key" -d "$body"; }
id=$(submit | job_id)
test -n "$id" || { echo "no job was accepted; is a server running at $server?" >&2; exit 1; }
echo "job $id"

echo "2. Submit the same again. It is the same job, not a second one."
test "$(submit | job_id)" = "$id" && echo "job $id"

echo "3. Come back. ?wait=30 holds the answer until the job has ended, for 30 seconds at most."
curl -sS "$server/v1/jobs/$id?wait=30"
echo

echo "4. Stream. Events are numbered; the stream ends with 'done'."
curl -sSN "$server/v1/jobs/$id/events?done=short"

echo "5. Resume. After an interruption, continue after the last event that you have: here, number 2."
curl -sSN "$server/v1/jobs/$id/events?done=short&after=2"

echo "6. Cancel. A running job keeps what it has written."
id=$(curl -sS "$server/v1/jobs" -H 'Content-Type: application/json' -d '{"prompt": "again", "max_tokens": 4000}' | job_id)
curl -sS -X POST "$server/v1/jobs/$id/cancel" -o /dev/null
curl -sS "$server/v1/jobs/$id?wait=30" | grep -o '"status": *"[a-z_]*"'

echo "7. A wrong request. The answer names the field."
curl -sS "$server/v1/jobs" -H 'Content-Type: application/json' -d '{"prompt": "x", "max_tokens": 0}'
echo
