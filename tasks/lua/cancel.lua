-- Cancels a job: at once while it waits, through its worker while it runs, not at all once it has ended.
--
-- Needs:   lifecycle, dispatch
-- Reads:   the record
-- Writes:  the job's end, or cancel_requested in the record; then dispatches
-- Arguments:
--   id: text
--   owner: text     empty for any
-- Answers:
--   ok         also if the job had ended
--   not_found  the owner has no such job
write_although_full()
local job = load_job(id)
if not job or (owner ~= '' and job.owner ~= owner) then return answer('not_found') end
if job.place == 'leases' then
  redis.call('HSET', key('job', id), 'cancel_requested', 1)
elseif job.place ~= 'ended' then
  local time = now()
  end_job(job, id, 'cancelled', nil, nil, time)
  dispatch(job.model, time)
end
return answer('ok')
