-- A worker takes an offered job: offered -> leases, under a fresh lease token of its own.
--
-- Reads:   the record and the log
-- Writes:  leases, the lease token, the attempt, a status entry in the log
-- Arguments: id, lease token, worker, its engine pool, its free slots, jobs that it holds
-- Answers: {'claimed', request, 1 if it runs alone, 1 if the request's seed was drawn, time of the first start, log
--          entries}, or
--          {'gone'} where the job is not on offer to this worker,
--          {'busy'} where it takes more slots than are free or has to run alone and the worker holds jobs,
--          {'settling'} where Redis has just come back
local id, lease_token, worker, engine_pool = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local free_slots, held = tonumber(ARGV[9]), tonumber(ARGV[10])

local job = load_job(id)
if not job then return { 'gone' } end
local record = key('job', id)

if not (job.place == 'leases' and job.lease_token == lease_token) then
  if job.place ~= 'offered' or job.engine_pool ~= engine_pool or job.worker ~= worker then return { 'gone' } end
  local time = now()
  if is_settling(time) then return { 'settling' } end
  if job.n > free_slots or (job.is_alone and held > 0) then return { 'busy' } end
  local number = #cjson.decode(redis.call('HGET', record, 'attempts')) + 1
  begin_attempt(job, id, lease_token, worker, engine_pool, number, time)
  append(id, { '["s",' .. number .. ']' })
end

local f = redis.call('HMGET', record, 'request', 'seed_drawn', 'started_at')
local log = redis.call('LRANGE', key('log', id), 0, -1)
return { 'claimed', f[1], job.is_alone and 1 or 0, f[2] and 1 or 0, f[3], log }
