-- Removes a worker that stops, at once and not only when its last heartbeat runs out.
--
-- Needs:   places, workers, dispatch
-- Reads:   the worker's offers
-- Writes:  what is kept about the worker; its offers go back in line; then dispatches
-- Arguments:
--   worker: text
--   engine_pool: text
--   model: text
-- Answers:
--   ok
write_although_full()
local time = now()
withdraw_offers(engine_pool, worker)
forget_worker(model, engine_pool, worker, time)
dispatch(model, time)
return answer('ok')
