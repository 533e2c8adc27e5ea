-- An ended job's log moves, packed, into its record; what only a waiting or running job needs is dropped.
--
-- Arguments: id, length of the log that was packed, the packed log
-- Answers:   1 if it is packed now; 0 where there is no such job, it has not ended or its log is another one
local id, length, packed = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local job, record = load_job(id), key('job', id)
if not job then redis.call('ZREM', PREFIX .. 'unpacked', id) end
if not job or job.place ~= 'ended' then return 0 end
write_although_full()
if redis.call('HEXISTS', record, 'packed_log') == 0 and redis.call('LLEN', key('log', id)) == length then
  redis.call('HSET', record, 'packed_log', packed, 'log_length', length)
  redis.call('HDEL', record, 'tag', 'score', 'cost', 'progress', 'timeout', 'timeout_at', 'expires_at',
    'cancel_requested')
  redis.call('DEL', key('log', id))
  redis.call('ZREM', PREFIX .. 'unpacked', id)
end
return redis.call('HEXISTS', record, 'packed_log')
