-- Reads whole jobs, each at one moment. This is a script and not a transaction because a full Redis refuses transactions
-- even to readers.
--
-- Needs:   standing, settling
-- Reads:   the records and the logs, the lines, the workers, the model's average, Redis' run
-- Arguments:
--   long_enough: number    bytes; the script stops after the job that brings its answer to this size
--   ids: texts
-- Answers:
--   ok    time (Redis')
--         jobs: {record, log, where it stands} of the first of the jobs, of one at least. The record is names and values in
--         turn, empty if there is no such job. The caller asks for the rest.
--         is_settling: 1 if Redis has just come back, and nobody claims yet
local jobs, bytes, time = {}, 0, now()

local function count(strings)
  for _, text in ipairs(strings) do bytes = bytes + #text end
end

for i, id in ipairs(ids) do
  if bytes >= long_enough then break end
  local record, log = redis.call('HGETALL', key('job', id)), redis.call('LRANGE', key('log', id), 0, -1)
  count(record)
  count(log)
  jobs[i] = { record, log, standing_of(id, time) }
end
return answer('ok', {
  time = precise(time), jobs = jobs, is_settling = time < settled_at(time) and 1 or 0,
})
