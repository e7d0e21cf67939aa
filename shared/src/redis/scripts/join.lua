-- Subscribes a connection and reads what it missed, in one step: what comes later is pushed, what came earlier is in
-- the answer, nothing falls between.
-- KEYS    1 head, 2 log, 3 subscribers, 4 online
-- ARGV    1 connection, 2 user, 3 name, 4 fresh generation, 5 fresh version of the subscribers,
--         6 the access version under which the membership was checked ('*' if the room is public),
--         7 'newest' or 'after', 8 position, 9 the generation that the position is of ('' if not told),
--         10 how many entries, 11 how many bytes of them, 12 seconds that a connection can live,
--         13 seconds between two sweeps
-- answer  {'ended'} the room is no more; {'again'} members were removed meanwhile: check and join again;
--         {'joined', generation, last position or false, 1 if reset, entries, 1 if there are more, users online,
--          1 if subscribers have to be told that Redis has forgotten}

local head = redis.call('HMGET', KEYS[1], 'ended', 'access')
if head[1] then return {'ended'} end
if ARGV[6] ~= '*' and (head[2] or '') ~= ARGV[6] then return {'again'} end

local generation, last, forgotten = check_head(KEYS[1], KEYS[2], ARGV[4])

sweep(KEYS[1], KEYS[3], KEYS[4], ARGV[5], ARGV[12], ARGV[13])
local since = redis.call('TIME')[1]
if redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ' ' .. since) == 1 then
  local count = string.match(redis.call('HGET', KEYS[4], ARGV[2]) or '', '^(%d+) ') or 0
  redis.call('HSET', KEYS[4], ARGV[2], string.format('%d %s', tonumber(count) + 1, ARGV[3]))
  redis.call('HSET', KEYS[1], 'subscribers', ARGV[5])
end
local online = redis.call('HLEN', KEYS[4])

-- A position from before this generation, or from a future that was forgotten, is no measure: what follows it here is
-- perhaps not all that followed it.
local after, reset = ARGV[7] == 'after', false
if after then
  local whole_since = redis.call('HGET', KEYS[1], 'whole_since') or '0-0'
  reset = (ARGV[9] ~= '' and ARGV[9] ~= generation)
    or before(last or '0-0', ARGV[8])
    or (ARGV[8] ~= '0-0' and before(ARGV[8], whole_since))
end

local entries, more
if after and not reset then
  entries, more = read('XRANGE', KEYS[2], '(' .. ARGV[8], '+', tonumber(ARGV[10]), tonumber(ARGV[11]))
else
  entries, more = read('XREVRANGE', KEYS[2], '+', '-', tonumber(ARGV[10]), tonumber(ARGV[11]))
  entries = reversed(entries)
end

return {'joined', generation, last, reset and 1 or 0, entries, more, online, forgotten}
