-- Subscribes a connection and reads what it missed, in one step: what comes later is pushed, what came earlier is in
-- the answer, nothing falls between.
-- KEYS    1 head, 2 log, 3 subscribers, 4 online
-- ARGV    1 connection, 2 user, 3 name, 4 fresh generation, 5 fresh version of the subscribers,
--         6 the access version under which the membership was checked ('*' if the room is public),
--         7 'newest' or 'after', 8 position, 9 the generation that the position is of ('' if not told),
--         10 how many entries, 11 how many bytes of them, 12 seconds that a connection can live,
--         13 seconds between two sweeps, 14 seconds for which the room stays after its last use
-- answer  {'ended'} the room is no more; {'again'} members were removed meanwhile: check and join again;
--         {'joined', generation, last position or false, since, count of generations, 1 if reset, entries,
--          1 if there are more, users online, 1 if subscribers have to be told that Redis has forgotten}

local access = redis.call('HMGET', KEYS[1], 'ended', 'access')
if access[1] then return {'ended'} end
if ARGV[6] ~= '*' and (access[2] or '') ~= ARGV[6] then return {'again'} end

local head = check_head(KEYS[1], KEYS[2], ARGV[4])
if not head then
  -- Whether the log is whole, only Postgres can tell, and it must be asked after this: what comes from now on is here.
  local given, before_me = last_given(KEYS[2]), redis.call('HLEN', KEYS[3])
  begin_generation(KEYS[1], KEYS[2], ARGV[4], 0, UNKNOWN, given, given)
  -- Whoever joins until Postgres was asked is answered only then.
  if before_me == 0 then redis.call('HSET', KEYS[1], 'unread', 1) end
  head = read_head(KEYS[1])
end

sweep(KEYS[1], KEYS[3], KEYS[4], ARGV[5], ARGV[12], ARGV[13])
-- Redis short of memory may have taken the one key and left the other: who has no subscription is not online.
if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('UNLINK', KEYS[4]) end
local now = redis.call('TIME')[1]
if redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ' ' .. now) == 1 then
  local count = string.match(redis.call('HGET', KEYS[4], ARGV[2]) or '', '^(%d+) ') or 0
  redis.call('HSET', KEYS[4], ARGV[2], string.format('%d %s', tonumber(count) + 1, ARGV[3]))
  redis.call('HSET', KEYS[1], 'subscribers', ARGV[5])
end
-- A head that was lost has taken the version with it.
redis.call('HSETNX', KEYS[1], 'subscribers', ARGV[5])
keep(KEYS, ARGV[14])
local online = redis.call('HLEN', KEYS[4])

-- A position of another generation, or from a future that was forgotten, is no measure.
local after = ARGV[7] == 'after'
local reset = after
  and ((ARGV[9] ~= '' and ARGV[9] ~= head.generation) or before(head.last or '0-0', ARGV[8]))

local entries, more
if after and not reset then
  entries, more = read('XRANGE', KEYS[2], '(' .. ARGV[8], '+', tonumber(ARGV[10]), tonumber(ARGV[11]))
else
  entries, more = read('XREVRANGE', KEYS[2], '+', '-', tonumber(ARGV[10]), tonumber(ARGV[11]))
  entries = reversed(entries)
end

return {
  'joined', head.generation, head.last, head.since, head.count, reset and 1 or 0, entries, more, online, head.untold,
}
