-- Removes an ended job: record, log and index entries.
--
-- Arguments: id, owner
-- Answers:   'deleted', 'missing' or the status of a job that has not ended
local id, owner = ARGV[5], ARGV[6]
local job = load_job(id)
if not job or job.owner ~= owner then return 'missing' end
if job.place ~= 'ended' then return job.status end
purge(job, id)
return 'deleted'
