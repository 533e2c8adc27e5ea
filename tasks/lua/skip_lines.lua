-- Takes the next lines of a batch without jobs, and writes what became of them to the error file.
--
-- Needs:   batches
-- Reads:   the batch's record, those of its files
-- Writes:  the batch's record, its error file
-- Arguments:
--   id: text
--   offset: number         where the lines begin in the input file, in bytes
--   next_offset: number    where the line after them begins
--   next_line: number      how many lines are before that
--   longest_file: number   in bytes
--   errors: texts          lines of the error file
-- Answers:
--   skipped
--   moved      these lines were taken before
--   gone       there is no such batch, it has ended, or it is to fail
--   damaged    its output file or its error file is missing or damaged
--   too_long   one of these files would become longer than a file may be
write_although_full()
local batch = load_batch(id)
if not batch or batch.outcome == 'failed' then return answer('gone') end
if batch.offset ~= offset then return answer('moved') end
local refused = write_refusal(batch, errors, longest_file)
if refused then return answer(refused) end
write_lines(batch, id, {}, errors)
redis.call('HSET', key('batch', id), 'offset', next_offset, 'next_line', next_line)
return answer('skipped')
