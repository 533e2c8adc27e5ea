-- Cancels a job: at once while it waits, by its worker while it runs, not at all once it has ended.
--
-- Arguments: id, owner ('' for any)
-- Answers:   1, or 0 where the owner has no such job; then the offers
local id, owner = ARGV[5], ARGV[6]
write_although_full()
local job = load_job(id)
if not job or (owner ~= '' and job.owner ~= owner) then return { 0, {} } end
local offers = {}
if job.place == 'leases' then
  redis.call('HSET', key('job', id), 'cancel_requested', 1)
elseif job.place ~= 'ended' then
  local time = now()
  end_job(job, id, 'cancelled', nil, nil, time)
  dispatch(job.model, time, offers)
end
return { 1, offers }
