-- Accepts a batch. A web process validates its input file afterwards.
--
-- Needs:   batches
-- Reads:   the input file's record, what its owner takes
-- Writes:  the batch's record and its turn, the owner's list of batches, the input file's holders and its end
-- Arguments:
--   id: text
--   owner: text
--   body_hash: text          of the request's body
--   input_file_id: text
--   endpoint: text
--   completion_window: text
--   window_seconds: number   the same in seconds
--   output_seconds: number   how long its files are kept from its creation on; 0 for as long as an ended job
--   metadata: text           JSON
--   memory_share: number     of Redis' memory that an owner may take
-- Answers:
--   created        also if it was created before
--   conflict       a batch with this id was made from another body
--   no_file        the owner has no such file
--   wrong_purpose  the file is not for batches
--   over_share     the owner's jobs and files take too much memory
--   nearly_full    Redis' memory is nearly full
local BATCH_BYTES = 2000 -- The memory of a batch without its metadata.
local CLOSING_SECONDS = 3600 -- How long the input file of a batch is kept after the end of its window, at least.

local known_hash = redis.call('HGET', key('batch', id), 'body_hash')
if known_hash then return answer(known_hash == body_hash and 'created' or 'conflict') end

local file = load_file(input_file_id)
if not file or file.owner ~= owner or file.status ~= 'stored' then return answer('no_file') end
if file.purpose ~= 'batch' then return answer('wrong_purpose') end
local bytes = BATCH_BYTES + #metadata
local memory = memory_refusal(owner, bytes, memory_share)
if memory then return answer(memory) end

local time = now()
redis.call('HSET', key('batch', id), 'id', id, 'owner', owner, 'body_hash', body_hash, 'input_file_id', input_file_id,
  'endpoint', endpoint, 'completion_window', completion_window, 'metadata', metadata, 'created_at', precise(time),
  'expires_at', precise(time + window_seconds), 'status', 'validating', 'offset', 0, 'next_line', 0,
  'input_bytes', file.bytes, 'output_seconds', output_seconds, 'bytes', bytes)
add_bytes(owner, bytes)
redis.call('ZADD', key('batches', owner), precise(time), id)
redis.call('ZADD', PREFIX .. 'batch_turns', precise(time), id)
redis.call('HINCRBY', key('file', input_file_id), 'holders', 1)
expire_file(input_file_id, math.max(file.expires_at or 0, time + window_seconds + CLOSING_SECONDS))
return answer('created')
