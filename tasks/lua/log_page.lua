-- Reads a piece of a job's log together with the job's owner and status, all at one moment.
--
-- Reads:   the record and the log
-- Arguments:
--   id: text
--   first: text    indexes of the first and the last entry, as LRANGE takes them; both empty for no entries
--   last: text
-- Answers:
--   ok         owner, status, length (of the whole log), packed (the packed log, empty while it is a list), entries
--   not_found
local f = redis.call('HMGET', key('job', id), 'owner', 'status', 'log_length', 'packed_log')
if not f[1] then return answer('not_found') end
local page = {
  owner = f[1], status = f[2], length = tonumber(f[3]) or redis.call('LLEN', key('log', id)),
  packed = '', entries = {},
}
if first ~= '' then
  page.packed = f[4] or ''
  page.entries = redis.call('LRANGE', key('log', id), first, last)
end
return answer('ok', page)
