-- Ends a batch that was closed, once each of its lines is answered. A batch that failed ends with the answers that it has.
--
-- Needs:   batches
-- Reads:   the batch's record and its open lines, the records of its files
-- Writes:  the batch's record, its open lines and its turn; the records of its files, which expire from then on
-- Arguments:
--   id: text
-- Answers:
--   ended       also if it had ended before
--   incomplete  counted, total: fewer lines were answered than the batch has, and none is open
--   not_ended   lines are open, or not taken yet
--   gone        there is no such batch
write_although_full()
local batch = load_batch(id)
if not batch then return answer('gone') end
if not redis.call('ZSCORE', PREFIX .. 'batch_turns', id) then return answer('ended') end
if not batch.outcome then return answer('not_ended') end
local record, time = key('batch', id), now()

if batch.outcome ~= 'failed' and batch.output_file_id then
  if redis.call('HLEN', key('batch_lines', id)) > 0 or batch.offset < batch.input_bytes then
    return answer('not_ended')
  end
  local counts = redis.call('HMGET', record, 'completed', 'failed')
  local counted = (tonumber(counts[1]) or 0) + (tonumber(counts[2]) or 0)
  if counted ~= batch.total then return answer('incomplete', { counted = counted, total = batch.total }) end
end
redis.call('DEL', key('batch_lines', id))

local keep_until = time + RETENTION_SECONDS
local files_until = keep_until
if batch.output_seconds > 0 then files_until = math.max(time, batch.created_at + batch.output_seconds) end
for _, field in ipairs({ 'output_file_id', 'error_file_id' }) do
  local file_id = redis.call('HGET', record, field)
  local file = file_id and load_file(file_id)
  if file and file.bytes > 0 then
    redis.call('HSET', key('file', file_id), 'status', 'stored')
    expire_file(file_id, files_until)
  elseif file_id then
    if file then forget_file(file, file_id) end
    redis.call('HDEL', record, field)
  end
end

local input = load_file(batch.input_file_id)
if input and input.holders > 0 then redis.call('HINCRBY', key('file', batch.input_file_id), 'holders', -1) end
move_batch(id, batch.outcome, time)
redis.call('ZREM', PREFIX .. 'batch_turns', id)
redis.call('ZADD', PREFIX .. 'batch_expiry', precise(math.max(keep_until, files_until)), id)
return answer('ended')
