-- Claims a job that is on offer to a worker: offered -> leases, under a fresh lease token.
--
-- Needs:   lifecycle, settling
-- Reads:   the record and the log
-- Writes:  leases, the lease token and the attempt in the record, a status entry in the log
-- Arguments:
--   id: text
--   lease_token: text
--   worker: text
--   engine_pool: text     the worker's
--   free_slots: number
--   held_jobs: number     that the worker has claimed already
-- Answers:
--   claimed    request, log, started_at (of the first attempt), is_alone (it runs alone), is_seed_drawn,
--              reasoning_marks (JSON; empty for none), is_divided (the worker divides its outputs)
--   gone       the job is not on offer to this worker
--   busy       it takes more slots than are free, or has to run alone while the worker holds jobs
--   settling   Redis has just come back
local job = load_job(id)
if not job then return answer('gone') end
local record = key('job', id)

-- A claim that was made already, and whose answer was lost, is answered again.
if not (job.place == 'leases' and job.lease_token == lease_token) then
  if job.place ~= 'offered' or job.engine_pool ~= engine_pool or job.worker ~= worker then return answer('gone') end
  local time = now()
  if is_settling(time) then return answer('settling') end
  if job.n > free_slots or (job.is_alone and held_jobs > 0) then return answer('busy') end
  local number = #cjson.decode(redis.call('HGET', record, 'attempts')) + 1
  begin_attempt(job, id, lease_token, worker, engine_pool, number, time)
  append(id, { '["s",' .. number .. ']' })
end

local f = redis.call('HMGET', record, 'request', 'seed_drawn', 'started_at', 'reasoning_marks', 'is_divided')
return answer('claimed', {
  request = f[1], is_seed_drawn = f[2], started_at = f[3], reasoning_marks = f[4] or '',
  is_divided = f[5] == '1',
  is_alone = job.is_alone, log = redis.call('LRANGE', key('log', id), 0, -1),
})
