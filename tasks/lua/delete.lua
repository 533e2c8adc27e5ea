-- Removes an ended job: its record, its log and its index entries.
--
-- Needs:   lifecycle
-- Reads:   the record
-- Writes:  the record, the log, the indexes, the idempotency key
-- Arguments:
--   id: text
--   owner: text
-- Answers:
--   deleted
--   not_found
--   not_ended  status
local job = load_job(id)
if not job or job.owner ~= owner then return answer('not_found') end
if job.place ~= 'ended' then return answer('not_ended', { status = job.status }) end
purge(job, id)
return answer('deleted')
