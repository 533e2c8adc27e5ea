-- A worker stops: it leaves the books at once instead of with its last heartbeat.
--
-- Arguments: worker, pool, model
-- Answers:   the offers: what it was offered goes to others
local worker, pool, model = ARGV[5], ARGV[6], ARGV[7]
write_although_full()
local time = now()
withdraw_offers(pool, worker)
forget_worker(model, pool, worker, time)
local offers = {}
dispatch(model, time, offers)
return offers
