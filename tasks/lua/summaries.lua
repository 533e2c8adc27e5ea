-- Reads what lists show of jobs, without the fields that may be long.
--
-- Needs:   standing
-- Reads:   the records, the lines, the workers
-- Arguments:
--   long_enough: number    bytes; the script stops after the job that brings its answer to this size
--   ids: texts
-- Answers:
--   ok    rows: for the first of the jobs, for one at least, {status, model, created_at, start of the prompt, request, where
--         it stands}. The status is empty if there is no such job. Either the start is empty, because the request is
--         short, or the request is. The caller asks for the rest.
local rows, bytes, time = {}, 0, now()
for i, id in ipairs(ids) do
  if bytes >= long_enough then break end
  local record = key('job', id)
  local f = redis.call('HMGET', record, 'status', 'model', 'created_at', 'prompt_start')
  local start, request = f[4] or '', ''
  if start == '' then request = redis.call('HGET', record, 'request') or '' end
  bytes = bytes + #start + #request
  rows[i] = { f[1] or '', f[2] or '', f[3] or '', start, request, standing_of(id, time) }
end
return answer('ok', { rows = rows })
