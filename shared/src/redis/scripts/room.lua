-- What the scripts on a room have in common. All keys of a room carry its hash tag.
--
-- head          hash   generation, last (position), subscribers (version), access (version), ended
-- log           stream entries: p the position before ('' for the first), e the event's body as JSON
-- subscribers   hash   connection -> '<user> <since, Unix seconds>'
-- online        hash   user -> '<connections> <name>'

-- The position that the stream gave last, false if it never gave one. Entries that were deleted count.
local function last_given(log)
  if redis.call('EXISTS', log) == 0 then return false end
  local info = redis.call('XINFO', 'STREAM', log)
  for index = 1, #info, 2 do
    if info[index] == 'last-generated-id' then return info[index + 1] end
  end
  return false
end

-- The room's generation and last position. `fresh` becomes the generation if there is none, or if head and stream
-- disagree: then Redis has lost the newest part of one of them, and positions that were given are no measure any more.
-- The third value tells that the latter happened.
local function check_head(head, log, fresh)
  local known = redis.call('HMGET', head, 'generation', 'last')
  local generation, last = known[1], known[2]
  local given = last_given(log)
  if generation and last == given then return generation, last, false end
  redis.call('HSET', head, 'generation', fresh)
  if given then redis.call('HSET', head, 'last', given) else redis.call('HDEL', head, 'last') end
  return fresh, given, generation ~= false
end

-- Whether position a comes before b. The parts can be larger than a number holds: a shorter one is smaller.
local function before(a, b)
  local a_ms, a_n = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_n = string.match(b, '^(%d+)-(%d+)$')
  local function less(x, y) return #x < #y or (#x == #y and x < y) end
  return less(a_ms, b_ms) or (a_ms == b_ms and less(a_n, b_n))
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
