-- Reads the lines of a batch whose answers are not written yet.
--
-- Needs:   base
-- Reads:   the batch's open lines, the places of their jobs
-- Arguments:
--   id: text
-- Answers:
--   ok    lines: for each {number, JSON of {custom_id, jobs}, 1 if all of its jobs have ended or are gone}
local lines = {}
local found = redis.call('HGETALL', key('batch_lines', id))
for i = 1, #found, 2 do
  local is_ended = 1
  for _, job_id in ipairs(cjson.decode(found[i + 1]).jobs) do
    local place = redis.call('HGET', key('job', job_id), 'place')
    if place and place ~= 'ended' then is_ended = 0 end
  end
  lines[#lines + 1] = { found[i], found[i + 1], is_ended }
end
return answer('ok', { lines = lines })
