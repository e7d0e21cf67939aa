-- Compares a room's head with what Postgres knew after the head was read. If Redis has forgotten something, or nobody
-- had asked Postgres yet, a generation begins.
-- KEYS    1 head, 2 log, 3 subscribers
-- ARGV    1 the generation that was read, 2 fresh generation, 3 newest position that Postgres has, 4 count of generations
--         that Postgres knows of, 5 the connection that need not be told, 6 seconds for which the room stays after its
--         last use
-- answer  {'unchanged'} they agree, or another generation has begun meanwhile; {'begun', count}

local head = check_head(KEYS[1], KEYS[2], ARGV[2])
if not head or head.generation ~= ARGV[1] then return {'unchanged'} end

local newest, count = ARGV[3], tonumber(ARGV[4])
local unknown = head.since == UNKNOWN
if not (unknown or before(head.last or '0-0', newest) or head.count < count) then return {'unchanged'} end

local since = latest(unknown and (last_given(KEYS[2]) or '0-0') or head.since, newest)
local others = redis.call('HLEN', KEYS[3]) - redis.call('HEXISTS', KEYS[3], ARGV[5])
-- In a room that has just come to Redis all others are still waiting for the answer to their join.
if redis.call('HDEL', KEYS[1], 'unread') == 1 then others = 0 end
count = math.max(head.count, count) + 1
begin_generation(KEYS[1], KEYS[2], ARGV[2], count, since, latest(head.last, newest), 0 < others)
keep({KEYS[1], KEYS[2]}, ARGV[6])
return {'begun', count}
