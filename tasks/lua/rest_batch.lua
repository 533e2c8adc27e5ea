-- Sets when a batch that has not ended gets its next turn.
--
-- Needs:   batches
-- Reads:   batch_turns
-- Writes:  batch_turns
-- Arguments:
--   id: text
--   seconds: number    from now
-- Answers:
--   ok    also if the batch has ended
redis.call('ZADD', PREFIX .. 'batch_turns', 'XX', precise(now() + seconds), id)
return answer('ok')
