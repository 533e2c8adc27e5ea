-- Gives a job back to the worker that runs it, after Redis lost its last second and with it the worker's claim: line,
-- offered or leases -> leases, under the lease token of its claim.
--
-- Only this worker can continue the text that the readers have seen. No other worker has claimed the job meanwhile if its
-- log is a beginning of the log that the claim returned. After a later claim the log would be longer, or different.
--
-- Needs:   lifecycle
-- Reads:   the record and the log
-- Writes:  what claim.lua writes, and the log entries that are missing
-- Arguments:
--   id: text
--   lease_token: text
--   worker: text
--   engine_pool: text     the worker's
--   number: number        the attempt's
--   claimed_log: texts    the log entries that the claim returned
-- Answers:
--   taken_back
--   gone         the job has ended, was deleted or has moved on
local ENTRIES_PER_APPEND = 1000 -- Lua's stack takes some thousand arguments.

local job = load_job(id)
if not job or job.place == 'ended' then return answer('gone') end
if job.place == 'leases' and job.lease_token == lease_token then return answer('taken_back') end

local known = redis.call('LRANGE', key('log', id), 0, -1)
if #known >= #claimed_log then return answer('gone') end
for i, entry in ipairs(known) do
  if entry ~= claimed_log[i] then return answer('gone') end
end

write_although_full()
local time = now()
end_attempt(id, time, 'forgotten by Redis')
begin_attempt(job, id, lease_token, worker, engine_pool, number, time)
for start = #known + 1, #claimed_log, ENTRIES_PER_APPEND do
  append(id, { unpack(claimed_log, start, math.min(start + ENTRIES_PER_APPEND - 1, #claimed_log)) })
end
return answer('taken_back')
