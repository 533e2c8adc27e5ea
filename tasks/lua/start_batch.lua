-- Ends the validation of a batch: it is in progress then, with an output file and an error file, or it fails.
--
-- Needs:   batches
-- Reads:   the batch's record
-- Writes:  the batch's record, the records of its files, the owner's list of files
-- Arguments:
--   id: text
--   total: number           lines
--   model: text             of the first line, empty if that names none
--   errors: text            JSON, empty for none
--   output_file_id: text
--   error_file_id: text
-- Answers:
--   started
--   closed    the batch is to fail, or was closed before
--   gone      there is no such batch, or it was validated before
write_although_full()
local batch = load_batch(id)
if not batch or batch.status ~= 'validating' then return answer(batch and batch.outcome and 'closed' or 'gone') end
local time = now()
if errors ~= '' then
  close_batch(batch, id, 'failed', errors, time)
  return answer('closed')
end
redis.call('HSET', key('batch', id), 'total', total, 'completed', 0, 'failed', 0, 'prompt_tokens', 0,
  'completion_tokens', 0, 'output_file_id', output_file_id, 'error_file_id', error_file_id)
if model ~= '' then redis.call('HSET', key('batch', id), 'model', model) end
move_batch(id, 'in_progress', time)
for file_id, name in pairs({ [output_file_id] = '_output.jsonl', [error_file_id] = '_error.jsonl' }) do
  create_file(file_id, batch.owner, 'open', 'redis', 0)
  list_file(file_id, batch.owner, id .. name, 'batch_output', precise(time))
end
return answer('started')
