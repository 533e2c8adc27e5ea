-- Writes the answers of a batch's open lines, and removes their jobs, whose results are in the answers now.
--
-- A line that is not open any more has its answer already, and is left out.
--
-- Needs:   batches
-- Reads:   the batch's record and its open lines, the records of its files and of the jobs
-- Writes:  the batch's record, its open lines and its files; the jobs' records, logs and index entries
-- Arguments:
--   id: text
--   longest_file: number   in bytes
--   lines: json            for each line {number, jobs (their ids), is_error, prompt_tokens, completion_tokens}
--   answers: texts         for each line, a line of the output file, or of the error file if `is_error`
-- Answers:
--   answered
--   gone       there is no such batch, it has ended, or it is to fail
--   damaged    its output file or its error file is missing or damaged
--   too_long   one of these files would become longer than a file may be
write_although_full()
local batch = load_batch(id)
if not batch or batch.outcome == 'failed' then return answer('gone') end
if not batch.output_file_id then return answer('gone') end
local refused = write_refusal(batch, answers, longest_file)
if refused then return answer(refused) end
local outputs, errors, prompt_tokens, completion_tokens = {}, {}, 0, 0

local function remove_jobs(ids)
  for _, job_id in ipairs(ids) do
    local job = load_job(job_id)
    if job and job.place == 'ended' then purge(job, job_id) end
  end
end

for i, line in ipairs(lines) do
  if redis.call('HDEL', key('batch_lines', id), line.number) == 1 then
    local written = line.is_error and errors or outputs
    written[#written + 1] = answers[i]
    prompt_tokens = prompt_tokens + line.prompt_tokens
    completion_tokens = completion_tokens + line.completion_tokens
    remove_jobs(line.jobs)
  end
end
write_lines(batch, id, outputs, errors)
redis.call('HINCRBY', key('batch', id), 'prompt_tokens', prompt_tokens)
redis.call('HINCRBY', key('batch', id), 'completion_tokens', completion_tokens)
return answer('answered')
