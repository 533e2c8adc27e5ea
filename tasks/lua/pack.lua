-- An ended job's log moves, packed, into its record; what only a waiting or running job needs is dropped.
--
-- Arguments: id, length of the log that was packed, the packed log, the request cut short ('' to keep it)
-- Answers:   1 if it is packed now; 0 where there is no such job, it has not ended or its log is another one
local id, length, packed, short_request = ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
local job, record = load_job(id), key('job', id)
if not job then redis.call('ZREM', PREFIX .. 'unpacked', id) end
if not job or job.place ~= 'ended' then return 0 end
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
    'cancel_requested')
  redis.call('DEL', key('log', id))
  redis.call('ZREM', PREFIX .. 'unpacked', id)
end
return redis.call('HEXISTS', record, 'packed_log')
