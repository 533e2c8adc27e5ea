-- A worker gives jobs back that it will not end itself: leases -> line, with the tag they had. One that is to
-- be cancelled ends here: there may be no worker after this one to hear of it.
--
-- ARGV from 5 on: reason, then id and lease token of each job
-- Writes:  line, the attempt's end, perhaps the job's; then dispatches
-- Answers: {number released, offers}. A job that is no longer this worker's stays where it is.
local time, released, models = now(), 0, {}
for i = 6, #ARGV, 2 do
  local id, lease_token = ARGV[i], ARGV[i + 1]
  local job = load_job(id)
  if job and job.place == 'leases' and job.lease_token == lease_token then
    if redis.call('HEXISTS', key('job', id), 'cancel_requested') == 1 then
      end_job(job, id, 'cancelled', nil, nil, time)
    else
      back_to_line(job, id, time, ARGV[5])
    end
    models[job.model] = true
    released = released + 1
  end
end
local offers = {}
for model in pairs(models) do dispatch(model, time, offers) end
return { released, offers }
