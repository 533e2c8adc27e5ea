-- Reads whole jobs, each at one moment. This is a script and not a transaction because a full Redis refuses transactions
-- even to readers.
--
-- Reads:   the records and the logs
-- Arguments:
--   long_enough: number    bytes; the script stops after the job that brings its answer to this size
--   ids: texts
-- Answers:
--   ok    time (Redis'), jobs: {record, log} of the first of the jobs, of one at least. The record is names and values in
--         turn, empty if there is no such job. The caller asks for the rest.
local jobs, bytes = {}, 0

local function count(strings)
  for _, text in ipairs(strings) do bytes = bytes + #text end
end

for i, id in ipairs(ids) do
  if bytes >= long_enough then break end
  local record, log = redis.call('HGETALL', key('job', id)), redis.call('LRANGE', key('log', id), 0, -1)
  count(record)
  count(log)
  jobs[i] = { record, log }
end
return answer('ok', { time = precise(now()), jobs = jobs })
