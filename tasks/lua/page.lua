-- A piece of a job's log, with what tells whether there is more to come, at one moment.
--
-- Arguments: id, and the indexes of the first and the last entry, as LRANGE wants them, if any are wanted
-- Answers:   {owner, status, length of the log, packed log ('' while it is a list), entries of the list}; the
--            owner is '' where there is no such job
local id, first, last = ARGV[5], ARGV[6], ARGV[7]
local f = redis.call('HMGET', key('job', id), 'owner', 'status', 'log_length', 'packed_log')
local length = tonumber(f[3]) or redis.call('LLEN', key('log', id))
local packed, entries = '', {}
if first then packed, entries = f[4] or '', redis.call('LRANGE', key('log', id), first, last) end
return { f[1] or '', f[2] or '', length, packed, entries }
