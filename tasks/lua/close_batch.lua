-- Makes a batch take no more jobs: because all of its lines are answered, a client cancelled it, or it is damaged.
--
-- Needs:   batches
-- Reads:   the batch's record
-- Writes:  the batch's record and its turn
-- Arguments:
--   id: text
--   owner: text      empty for any
--   outcome: text    completed, cancelled or failed
--   errors: text     JSON, empty for none
-- Answers:
--   closed     also if it was closed in the same way before
--   ended      status: with which it ended, or is about to end
--   not_found  the owner has no such batch
write_although_full()
local batch = load_batch(id)
if not batch or (owner ~= '' and batch.owner ~= owner) then return answer('not_found') end
if not redis.call('ZSCORE', PREFIX .. 'batch_turns', id) then
  return answer(batch.status == outcome and 'closed' or 'ended', { status = batch.status })
end
close_batch(batch, id, outcome, errors ~= '' and errors or nil, now())
return answer(batch.outcome == outcome and 'closed' or 'ended', { status = batch.status })
