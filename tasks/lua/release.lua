-- A worker gives jobs back that it will not end itself: leases -> line, with the tag they had.
--
-- ARGV from 5 on: reason, then id and token of each job
-- Writes:  line, the attempt's end; then dispatches
-- Answers: {number released, offers}. A job that is no longer this worker's stays where it is.
local time, released, queues = now(), 0, {}
for i = 6, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  local job = load_job(id)
  if job and job.place == 'leases' and job.token == token then
    back_to_line(job, id, time, ARGV[5])
    queues[job.queue] = true
    released = released + 1
  end
end
local offers = {}
for queue in pairs(queues) do dispatch(queue, time, offers) end
return { released, offers }
