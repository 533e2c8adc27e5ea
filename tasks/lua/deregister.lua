-- A worker stops: it leaves the books at once instead of with its last heartbeat.
--
-- Arguments: worker, engine pool, model
-- Answers:   the offers: what it was offered goes to others
local worker, engine_pool, model = ARGV[5], ARGV[6], ARGV[7]
write_although_full()
local time = now()
withdraw_offers(engine_pool, worker)
forget_worker(model, engine_pool, worker, time)
local offers = {}
dispatch(model, time, offers)
return offers
