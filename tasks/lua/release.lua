-- Gives back jobs that a worker will not end itself: leases -> line, with the tag that they had. A job that is to be
-- cancelled ends here, because no worker may come after this one to see that.
--
-- Needs:   lifecycle, dispatch
-- Reads:   the records
-- Writes:  line, the attempt's end, how often the job was preempted, perhaps the job's end; then dispatches
-- Arguments:
--   reason: text   'preempted' if dispatch asked for the slots
--   jobs: json     for each job {id, lease_token}
-- Answers:
--   ok    released: how many the worker still held. Jobs that it has lost stay where they are.
local time, released, models = now(), 0, {}
for _, held in ipairs(jobs) do
  local id, lease_token = held.id, held.lease_token
  local job = load_job(id)
  if job and job.place == 'leases' and job.lease_token == lease_token then
    if redis.call('HEXISTS', key('job', id), 'cancel_requested') == 1 then
      end_job(job, id, 'cancelled', nil, nil, time)
    else
      back_to_line(job, id, time, reason)
      if reason == 'preempted' then redis.call('HINCRBY', key('job', id), 'preemptions', 1) end
    end
    models[job.model] = true
    released = released + 1
  end
end
for model in pairs(models) do dispatch(model, time) end
return answer('ok', { released = released })
