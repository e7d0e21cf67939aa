-- Compares a room's head with what Postgres knew after the head was read. If Redis has forgotten something, or nobody
-- had asked Postgres yet, a generation begins.
-- KEYS    1 head, 2 log, 3 subscribers
-- ARGV    1 the generation that was read, 2 fresh generation, 3 newest position that Postgres has, 4 position up to which
--         a log had lost something, 5 count of generations that Postgres knows of,
--         6 the connection that need not be told, 7 seconds for which the room stays after its last use
-- answer  {'unchanged'} they agree, or another generation has begun meanwhile; {'begun', generation, count, since}

local head = check_head(KEYS[1], KEYS[2], ARGV[2])
if not head or head.generation ~= ARGV[1] then return {'unchanged'} end

local newest, lost, count = ARGV[3], ARGV[4], tonumber(ARGV[5])
local unknown = head.since == UNKNOWN
local behind = unknown or before(head.last or '0-0', newest)
if not (behind or before(head.since, lost) or head.count < count) then return {'unchanged'} end

local since = unknown and (last_given(KEYS[2]) or '0-0') or head.since
since = latest(since, behind and latest(newest, lost) or lost)
local others = redis.call('HLEN', KEYS[3]) - redis.call('HEXISTS', KEYS[3], ARGV[6])
count = math.max(head.count, count) + 1
begin_generation(KEYS[1], KEYS[2], ARGV[2], count, since, latest(latest(head.last, newest), lost), 0 < others)
keep({KEYS[1], KEYS[2]}, ARGV[7])
return {'begun', ARGV[2], count, since}
