-- What lists show of jobs, without what may be long.
--
-- Arguments: the bytes from which on the answer is long enough, then job ids
-- Answers: for the first of the jobs, for one at least, {status ('' where there is no such job), model, created_at,
--          start of the prompt, request}. The start is '' where the request is short; the request is '' where there
--          is a start. The caller asks for the rest.
local long_enough = tonumber(ARGV[5])
local answer, bytes = {}, 0
for i = 6, #ARGV do
  if bytes >= long_enough then break end
  local record = key('job', ARGV[i])
  local f = redis.call('HMGET', record, 'status', 'model', 'created_at', 'prompt_start')
  local start, request = f[4] or '', ''
  if start == '' then request = redis.call('HGET', record, 'request') or '' end
  bytes = bytes + #start + #request
  answer[#answer + 1] = { f[1] or '', f[2] or '', f[3] or '', start, request }
end
return answer
