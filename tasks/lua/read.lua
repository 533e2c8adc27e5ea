-- Whole jobs, each at one moment. A script and not a transaction, which a full Redis refuses even to readers.
--
-- Arguments: the bytes from which on the answer is long enough, then job ids
-- Answers: {Redis' time, {record, log}, ...} of the first of the jobs, of one at least; the record as names and
--          values in turn, none where there is no such job. The caller asks for the rest.
local long_enough = tonumber(ARGV[5])
local answer, bytes = { precise(now()) }, 0

local function count(strings)
  for _, text in ipairs(strings) do bytes = bytes + #text end
end

for i = 6, #ARGV do
  if bytes >= long_enough then break end
  local id = ARGV[i]
  local record, log = redis.call('HGETALL', key('job', id)), redis.call('LRANGE', key('log', id), 0, -1)
  count(record)
  count(log)
  answer[#answer + 1] = { record, log }
end
return answer
