-- Moves an ended job's log, packed, into its record, and drops the fields that only a waiting or running job needs.
--
-- Needs:   records
-- Reads:   the record, the length of the log
-- Writes:  the record, the log, unpacked, the owner's bytes
-- Arguments:
--   id: text
--   length: number        of the log that was packed
--   packed: text          the packed log
--   short_request: text   the request cut short, empty to keep it
-- Answers:
--   packed      also if it was packed before
--   not_packed  there is no such job, it has not ended, or its log is another one
local job, record = load_job(id), key('job', id)
if not job then redis.call('ZREM', PREFIX .. 'unpacked', id) end
if not job or job.place ~= 'ended' then return answer('not_packed') end
write_although_full()
if redis.call('HEXISTS', record, 'packed_log') == 0 and redis.call('LLEN', key('log', id)) == length then
  redis.call('HSET', record, 'packed_log', packed, 'log_length', length)
  local bytes = job.bytes + #packed
  if short_request ~= '' then
    bytes = bytes - redis.call('HSTRLEN', record, 'request') + #short_request
    redis.call('HSET', record, 'request', short_request, 'request_truncated', 1)
  end
  redis.call('HSET', record, 'bytes', bytes)
  add_bytes(job.owner, bytes - job.bytes)
  redis.call('HDEL', record, 'tag', 'score', 'cost', 'progress', 'timeout', 'timeout_at', 'expires_at',
    'cancel_requested', 'preempt_requested', 'preemptions')
  redis.call('DEL', key('log', id))
  redis.call('ZREM', PREFIX .. 'unpacked', id)
end
local is_packed = redis.call('HEXISTS', record, 'packed_log') == 1
return answer(is_packed and 'packed' or 'not_packed')
