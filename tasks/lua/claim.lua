-- A worker takes an offered job: offered -> leases, under a fresh token of its own.
--
-- Reads:   the record and the log
-- Writes:  leases, the token, the attempt, a status entry in the log
-- Answers: {'claimed', request, 1 if it runs alone, log entries}, {'gone'} where the job is not on offer, or
--          {'busy'} where it takes more slots than are free or has to run alone and the worker holds jobs
-- With 'take back' as the last argument: out of the line, too. Its worker has it already, and Redis forgot.
local id, token, worker, free_slots, held = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local is_taken_back = ARGV[10] == 'take back'

-- A job whose workers died twice without a token may be what killed them: no others with it then.
local ALONE_FROM_FAILS = 2

local job = load_job(id)
if not job then return { 'gone' } end
local record = key('job', id)
local is_alone = tonumber(redis.call('HGET', record, 'fails')) >= ALONE_FROM_FAILS

if not (job.place == 'leases' and job.token == token) then
  if job.place ~= 'offered' and not (is_taken_back and job.place == 'line') then return { 'gone' } end
  if job.n > free_slots or (is_alone and held > 0) then return { 'busy' } end
  local time = now()
  leave_place(job, id)
  enter_place(job, id, 'leases', precise(time + LEASE_SECONDS))
  redis.call('ZREM', PREFIX .. 'deadlines', id)
  local attempts = cjson.decode(redis.call('HGET', record, 'attempts'))
  attempts[#attempts + 1] = { number = #attempts + 1, worker = worker, started_at = time }
  redis.call('HSET', record, 'token', token, 'attempts', cjson.encode(attempts), 'progress', 0)
  if not job.started_at then
    redis.call('HSET', record, 'started_at', precise(time))
    local timeout = redis.call('HGET', record, 'timeout')
    if timeout then redis.call('HSET', record, 'timeout_at', precise(time + tonumber(timeout))) end
    set_status(job, id, 'queued', 'in_progress')
  end
  append(id, { '["s",' .. #attempts .. ']' })
end

local request = redis.call('HGET', record, 'request')
return { 'claimed', request, is_alone and 1 or 0, redis.call('LRANGE', key('log', id), 0, -1) }
