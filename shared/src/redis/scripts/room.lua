-- What the scripts on a room have in common. All keys of a room carry its hash tag.
--
-- head          hash   generation, count (of generations so far), last (position), since (position), subscribers
--                      (version), access (version), resync (a generation that subscribers have not been told of), unread
--                      (nobody has had an answer of this generation), renamed, swept (Unix seconds), ended
-- log           stream entries: p the position before ('' for the first), e the event's body as JSON
-- subscribers   hash   connection -> '<user> <since, Unix seconds>'
-- online        hash   user -> '<connections> <name>'
--
-- After `since` the log is whole. Up to it, history is the log and Postgres together: what was trimmed is in Postgres
-- only, and where Redis has forgotten something, Postgres has it or will. Nobody has asked Postgres yet: UNKNOWN.

local UNKNOWN = '18446744073709551615-18446744073709551615'

-- The position that the stream gave last, false if it never gave one. Entries that were deleted count.
local function last_given(log)
  if redis.call('EXISTS', log) == 0 then return false end
  local info = redis.call('XINFO', 'STREAM', log)
  for index = 1, #info, 2 do
    if info[index] == 'last-generated-id' then return info[index + 1] end
  end
  return false
end

-- Whether `last` is what the stream gave last. Reads the entry alone where it is still there: XINFO copies two.
local function is_last(log, last)
  if not last then return redis.call('EXISTS', log) == 0 end
  local rest = redis.call('XRANGE', log, last, '+', 'COUNT', 2)
  if #rest == 1 and rest[1][1] == last then return true end
  return last_given(log) == last
end

-- Whether position a comes before b. The parts can be larger than a number holds: a shorter one is smaller.
local function before(a, b)
  local a_ms, a_n = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_n = string.match(b, '^(%d+)-(%d+)$')
  local function less(x, y) return #x < #y or (#x == #y and x < y) end
  return less(a_ms, b_ms) or (a_ms == b_ms and less(a_n, b_n))
end

-- The later of two positions, either of which may be false.
local function latest(a, b)
  if not a or (b and before(a, b)) then return b end
  return a
end

-- Makes the stream give larger positions than this one from now on.
local function move_on(log, to)
  local given = last_given(log) or '0-0'
  if not before(given, to) then return end
  redis.call('XADD', log, to, 'p', '', 'e', '')
  redis.call('XDEL', log, to)
end

-- Begins a generation: positions that were given are no measure any more. `tell`: subscribers have to be told
-- (`told.lua` notes that they were); otherwise there are none, and what earlier ones had to be told is of no use either.
local function begin_generation(head, log, fresh, count, since, last, tell)
  redis.call('HSET', head, 'generation', fresh, 'count', string.format('%.0f', count), 'since', since)
  if tell then redis.call('HSET', head, 'resync', fresh) else redis.call('HDEL', head, 'resync') end
  if last then move_on(log, last) end
  local given = last_given(log)
  if given then redis.call('HSET', head, 'last', given) else redis.call('HDEL', head, 'last') end
end

local function read_head(head)
  local known = redis.call('HMGET', head, 'generation', 'last', 'count', 'since', 'resync')
  if not known[1] then return false end
  return {
    generation = known[1], last = known[2], count = tonumber(known[3] or 0), since = known[4] or UNKNOWN,
    untold = known[5] and 1 or 0,
  }
end

-- The head; false if there is none. If head and stream disagree, Redis has lost the newest part of one of them: then a
-- generation begins, and `disagreed` is true.
local function check_head(head, log, fresh)
  local known = read_head(head)
  if not known or is_last(log, known.last) then return known end
  local newest = latest(known.last, last_given(log))
  begin_generation(head, log, fresh, known.count + 1, latest(known.since, newest), newest, true)
  local begun = read_head(head)
  begun.disagreed = true
  return begun
end

-- The event that the log has at a position, false if none.
local function event_at(log, position)
  local entry = redis.call('XRANGE', log, position, position)[1]
  return entry and cjson.decode(entry[2][4]).event
end

-- A room that nobody uses leaves Redis whole after so many seconds, and comes back from Postgres.
local function keep(keys, seconds)
  for _, key in ipairs(keys) do redis.call('EXPIRE', key, seconds) end
end

-- Reads entries of a log from a position on, forwards ('XRANGE', to '+') or backwards ('XREVRANGE', to '-'): at most
-- `most`, and no more than it takes to reach `bytes` of bodies, so that no frame keeps Redis from its other clients.
-- Answers them in the order of reading, and 1 if there are more.
local function read(command, log, from, to, most, bytes)
  local entries, size = {}, 0
  while true do
    local part = redis.call(command, log, from, to, 'COUNT', 16)
    for _, entry in ipairs(part) do
      if #entries == most or size >= bytes then return entries, 1 end
      entries[#entries + 1] = entry
      size = size + #entry[2][4]
    end
    if #part < 16 then return entries, 0 end
    from = '(' .. part[#part][1]
  end
end

local function reversed(entries)
  local turned = {}
  for index = #entries, 1, -1 do turned[#turned + 1] = entries[index] end
  return turned
end

-- Ends one subscription. Answers whether there was one.
local function unsubscribe(subscribers, online, connection)
  local subscriber = redis.call('HGET', subscribers, connection)
  if not subscriber then return false end
  redis.call('HDEL', subscribers, connection)
  local user = string.match(subscriber, '^%S+')
  local count, name = string.match(redis.call('HGET', online, user) or '', '^(%d+) (.*)$')
  if count and tonumber(count) > 1 then
    redis.call('HSET', online, user, string.format('%d %s', tonumber(count) - 1, name))
  else
    redis.call('HDEL', online, user)
  end
  return true
end

-- Ends the subscriptions that are older than the gateway lets a connection live: their $disconnect never came. Looks
-- through a room once in `pause` seconds at most. `version` becomes the subscribers' if any was ended.
local function sweep(head, subscribers, online, version, lifetime, pause)
  local now = tonumber(redis.call('TIME')[1])
  local swept = tonumber(redis.call('HGET', head, 'swept') or 0)
  if swept <= now and now < swept + tonumber(pause) then return end
  redis.call('HSET', head, 'swept', string.format('%.0f', now))
  local ended = false
  local all = redis.call('HGETALL', subscribers)
  for index = 1, #all, 2 do
    local since = tonumber(string.match(all[index + 1], ' (%d+)$'))
    if not since or since + tonumber(lifetime) < now then
      ended = unsubscribe(subscribers, online, all[index]) or ended
    end
  end
  if ended then redis.call('HSET', head, 'subscribers', version) end
end
