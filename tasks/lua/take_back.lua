-- A worker takes back a job that it runs and that Redis, having lost its last second, knows as another's or
-- nobody's: line, offered or leases -> leases, under the lease token of its claim.
--
-- Only it can go on as its readers have seen it. That nobody moved the job on meanwhile shows in the log: it
-- is a beginning of what the claim brought. With a later claim it would be longer, or another.
--
-- Arguments: id, lease token, worker, its engine pool, the attempt's number, the log entries that the claim brought
-- Reads:   the log
-- Writes:  what claim.lua writes, and the entries that are missing
-- Answers: 1, or 0 where the job has ended, is gone or has moved on
local id, lease_token, worker, engine_pool, number = ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local FIRST_ENTRY = 10
local entry_count = #ARGV - FIRST_ENTRY + 1

local job = load_job(id)
if not job or job.place == 'ended' then return 0 end
if job.place == 'leases' and job.lease_token == lease_token then return 1 end

local known = redis.call('LRANGE', key('log', id), 0, -1)
if #known >= entry_count then return 0 end
for i, entry in ipairs(known) do
  if entry ~= ARGV[FIRST_ENTRY + i - 1] then return 0 end
end

write_although_full()
local time = now()
end_attempt(id, time, 'forgotten by Redis')
begin_attempt(job, id, lease_token, worker, engine_pool, number, time)
for start = FIRST_ENTRY + #known, #ARGV, ENTRIES_PER_APPEND do
  local entries = {}
  for i = start, math.min(start + ENTRIES_PER_APPEND - 1, #ARGV) do entries[#entries + 1] = ARGV[i] end
  append(id, entries)
end
return 1
